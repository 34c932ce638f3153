// Texts as the encoder's tokeniser reads them: what open_clip does to a text, which is what ftfy and
// Python's `html.unescape` do. Not done: text that was decoded wrongly stays so, and of the entities
// by name only those of XML and the space are known.

const NAMED = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0" };
const TERMINAL = /\x1b\[((?:\d|;)*)([a-zA-Z])/g;
const LIGATURES = /[\u0132\u0133\u0149\u01c4-\u01cc\u01f1-\u01f3\ufb00-\ufb06]/g;
const WIDE = /[\u3000\uff01-\uffef]/g;
const CONTROLS = /[\0-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc]/g;
const SPACES = /[\s\x1c-\x1f\x85]+/g;

function unescape(text) {
  return text.replace(/&(#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-z]+);/g, (whole, name) => {
    if (name[0] !== "#") return NAMED[name] ?? whole;
    const code = /^#[xX]/.test(name) ? parseInt(name.slice(2), 16) : Number(name.slice(1));
    if (code === 0 || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return "\ufffd";
    return String.fromCodePoint(code);
  });
}

export function clean(text) {
  const fixed = (text.includes("<") ? text : unescape(text))
    .replace(TERMINAL, "")
    .replace(LIGATURES, (letters) => letters.normalize("NFKC"))
    .replace(WIDE, (letter) => letter.normalize("NFKC"))
    .replace(/[\u02bc\u2018-\u201b]/g, "'")
    .replace(/[\u201c-\u201f]/g, '"')
    .replace(/\r\n|[\r\u2028\u2029\x85]/g, "\n")
    .replace(/[\ud800-\udfff]/gu, "\ufffd")
    .replace(CONTROLS, "")
    .normalize("NFC");
  return unescape(unescape(fixed)).replace(SPACES, " ").trim();
}
