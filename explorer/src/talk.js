// The page's side of the engine: scripts with packs are read when they are needed, and sent to it.

const loading = {}; // by name: the promise of a script
let port, next = 0;
const waiting = new Map();

// A script of the page's folder; a file may load nothing else.
function script(name) {
  return new Promise((done, failed) => {
    const tag = document.createElement("script");
    tag.src = `${name}.js`;
    tag.onload = () => { done(self.PACKS[name]); tag.remove(); };
    tag.onerror = () => failed(new Error(`${name}.js`));
    document.head.append(tag);
  });
}

// The other end of the engine: a Worker made of its text, or, where that is forbidden, the page.
function connect(text) {
  const url = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
  try {
    return new Worker(url);
  } catch {
    const channel = new MessageChannel();
    const tag = document.createElement("script");
    tag.textContent = text;
    document.head.append(tag);
    self.serveExplorer(channel.port1);
    return channel.port2;
  }
}

async function engine() {
  loading.engine ||= script("engine").then((text) => {
    port = connect(text);
    port.onmessage = ({ data: { id, progress, result, error } }) => {
      const call = waiting.get(id);
      if (progress) return call.show?.(progress);
      waiting.delete(id);
      if (error) call.failed(new Error(error));
      else call.done(result);
    };
  });
  await loading.engine;
}

// Ask the engine; `show` gets what happens on the way.
export function ask(call, options = {}, show = null) {
  return new Promise((done, failed) => {
    const id = next++;
    waiting.set(id, { done, failed, show });
    port.postMessage({ id, call, ...options });
  });
}

// Makes sure that the engine has packs, each of which is sent once.
export async function need(...names) {
  await engine();
  await Promise.all(names.map((name) => {
    loading[name] ||= script(name).then(async (text) => {
      delete self.PACKS[name];
      await ask("load", { name, text });
    });
    return loading[name];
  }));
}

// Calls a function with the newest of the values that arrive while it is busy.
export function newestOnly(work) {
  let busy = false, waitingFor = null;
  return async function offer(value) {
    if (busy) { waitingFor = { value }; return; }
    busy = true;
    try {
      await work(value);
    } finally {
      busy = false;
      const following = waitingFor;
      waitingFor = null;
      if (following) offer(following.value);
    }
  };
}
