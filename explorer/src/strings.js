// Every word of the page, so that it can be translated in one place.

export const STRINGS = {
  title: "Talk, draw, find",
  intro:
    "Someone looks for one picture among 5,000. They say what they remember and answer questions. " +
    "A diffusion model draws what was said, and words and drawing rank the pictures together. " +
    "Everything here runs in this page: nothing is sent anywhere.",
  back: "Back to the book",
  skip: "Skip to the search",

  pastTitle: "1 · Watch a search",
  pastIntro:
    "The searches below were computed when the book was built. Choose one and step through its " +
    "rounds. A good search brings the target to rank 1.",
  speaker: "Who answers",
  picture: "Picture",
  pictureNumber: (number) => `Picture ${number}`,
  sources: {
    human: "a person", terse: "a person of few words", verbose: "a person of many words",
    degenerate: "someone who asks in vain", unreliable: "someone who is often wrong",
    heldout: "a person, about new combinations",
  },
  roundOf: (round, last) => `Round ${round} of ${last}`,
  earlier: "Earlier round",
  later: "Later round",
  said: "What was said",
  caption: "The words so far, rewritten as one caption",
  target: "The target",
  view: "The drawing",
  targetAlt: (text) => `The target: ${text}`,
  viewAlt: (caption) => `A drawing of: ${caption}`,
  cuesTitle: "What the drawing gets wrong",
  cuesHint: "Point at a line, or move to it with the Tab key, to see where.",
  cueTerms: "What these words mean",
  noCues: "Nothing that the reading of this drawing shows.",
  kinds: { invented: "invented", contradicted: "contradicted", omitted: "left out" },
  cue: ({ text, said }) => (said ? `${text} (the words say: ${said})` : text),
  cueKinds:
    "Invented: the words are silent and the target is otherwise. Contradicted: the words say " +
    "otherwise. Left out: the words say it and the drawing lacks it. A small network reads the " +
    "drawing, and it is sometimes wrong.",
  ranksTitle: "The rank of the target",
  rank: "Rank",
  method: "Method",
  methods: {
    text: "Text", dar: "DAR", adafuse: "ADaFuSE", dmcl: "DMCL",
  },
  explained: {
    text: "the words alone",
    dar: "the sum of words and drawing",
    adafuse: "a learned sum of words and drawing",
    dmcl: "DAR's sum with an encoder that was trained with drawings",
  },
  explainedLive: {
    text: "the words alone",
    dar: "the sum of words and drawing",
    adafuse: "a learned sum of words and drawing",
    dmcl: "the words alone, with an encoder that was trained with drawings",
  },
  curveTitle: "Ranks over the rounds",
  curveAxis: "round (the scale of ranks is logarithmic, and 1 is best)",
  curveAlt: (lines) => `Ranks of the target over the rounds. ${lines}`,
  curveLine: (method, ranks) => `${method}: ${ranks.join(", ")}.`,
  bestTitle: "The first ten",
  bestBy: "Ranked by",
  isTarget: "target",
  place: (place, text, isTarget) => `${place}. ${isTarget ? "The target: " : ""}${text}`,
  notAmong: (rank) => `The target is not among the first ten: its rank is ${rank}.`,
  among: (rank) => `The target is number ${rank}.`,
  spoken: (round, lines) => `Round ${round}. The target has rank ${lines}.`,
  spokenLive: (lines) => `The target has rank ${lines}.`,
  spokenLine: (method, rank) => `${rank} by ${method}`,

  liveTitle: "2 · Say it yourself",
  liveIntro:
    "Describe the target below. The encoder runs in this page, and the ranks follow as you type. " +
    "Start a new line for each answer: a line is a round.",
  liveMissing:
    "This copy of the book was built without the live parts: npm was missing, or could not fetch " +
    "its packages. The searches above work all the same.",
  another: "Another picture",
  words: "Your words, a line for each round",
  example: "For example: a small red car at the beach",
  loading: "Loading the encoder …",
  empty: "Say something first: name a thing, a place, a time of day.",
  markup: "Markup is read as plain words.",
  long: (limit) => `Only the first ${limit.toLocaleString("en")} characters are read.`,
  cut: "The encoder reads 128 pieces of words; the rest is left out.",
  failed: (reason) => `That did not work in this browser: ${reason}`,
  waiting: "Not yet: type some words.",
  needsView: "draw first",

  drawTitle: "3 · Draw it",
  drawIntro:
    "The diffusion model draws your words, step by step. With a drawing, DAR and ADaFuSE rank as " +
    "well. The same words, seed, steps and guidance give nearly the same drawing here as in Python.",
  draw: "Draw",
  drawFour: "Draw four",
  stop: "Stop",
  seed: "Seed",
  newSeed: "New seed",
  steps: "Steps",
  guidance: "Guidance",
  loadingDraw: "Loading the diffusion model …",
  drawing: (step, steps) => `Step ${step} of ${steps}`,
  drawn: (seconds) => `Drawn in ${seconds} s.`,
  stopped: "Stopped.",
  stale: "The words have changed since this was drawn.",
  drawingAlt: (seed, words) => `Drawing with seed ${seed} of: ${words}`,
  use: (seed) => `Rank with this one (seed ${seed})`,
  drawingRanks: (lines) => `Rank ${lines}.`,
  noDrawing: "Nothing is drawn yet.",

  thanks:
    "Text and pictures: CC BY-SA 4.0, with sprites by OpenMoji (CC BY-SA 4.0). Code: MIT. The live " +
    "parts contain ONNX Runtime (MIT) and Tokenizers (Apache 2.0).",
};
