// Scores and ranks, as daitir/retrieval.py and daitir/fusion.py define them.

export function dot(a, b, offset = 0) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[offset + i];
  return sum;
}

export function unit(vector) {
  const length = Math.sqrt(dot(vector, vector));
  return vector.map((value) => value / length);
}

// The score of every picture; `gallery` holds one feature after the other.
export function scoresOf(query, gallery) {
  const scores = new Float32Array(gallery.length / query.length);
  for (let i = 0; i < scores.length; i++) scores[i] = dot(query, gallery, i * query.length);
  return scores;
}

// From 1 on; pictures that tie with the target count against it.
export function rankOf(scores, target) {
  let rank = 0;
  for (const score of scores) rank += score >= scores[target];
  return rank;
}

// The numbers of the best pictures; those that tie stand in the order of their numbers.
export function bestOf(scores, count) {
  const order = Array.from(scores.keys());
  order.sort((a, b) => scores[b] - scores[a] || a - b);
  return order.slice(0, count);
}

// DAR trusts the words at first, and words and view alike from round 2 on.
export function darQuery(text, view, round) {
  const weight = round < 2 ? 0.2 : 0.5;
  return unit(text.map((value, i) => (1 - weight) * value + weight * view[i]));
}
