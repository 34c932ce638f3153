// Reads what packs.py writes: numbers and bytes that come as scripts.

// The bytes of a text that holds seven bits a character, lowest bits first.
export function bytesOf(text) {
  const bytes = new Uint8Array(Math.floor((text.length * 7) / 8));
  let held = 0, count = 0, at = 0;
  for (let i = 0; i < text.length; i++) {
    held |= text.charCodeAt(i) << count;
    count += 7;
    if (count >= 8 && at < bytes.length) {
      bytes[at++] = held & 255;
      held >>= 8;
      count -= 8;
    }
  }
  return bytes;
}

export async function gunzip(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

export function halfToFloat(half) {
  const sign = half & 0x8000 ? -1 : 1, exponent = (half >> 10) & 31, fraction = half & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

let halves; // the value of every half-precision number, made once
const readers = {
  half(head, bytes, out) {
    halves ||= Float32Array.from({ length: 65536 }, (_, half) => halfToFloat(half));
    for (let i = 0; i < head.size; i++) out[i] = halves[bytes[i] | (bytes[head.size + i] << 8)];
    return 2 * head.size;
  },
  int16(head, bytes, out) {
    for (let i = 0; i < head.size; i++) {
      out[i] = (((bytes[i] | (bytes[head.size + i] << 8)) << 16) >> 16) * head.scale;
    }
    return 2 * head.size;
  },
  float(head, bytes, out) {
    new Uint8Array(out.buffer, out.byteOffset, 4 * head.size).set(bytes.subarray(0, 4 * head.size));
    return 4 * head.size;
  },
  int8(head, bytes, out) {
    const scales = new Float32Array(bytes.slice(0, 4 * head.channels).buffer);
    const numbers = bytes.subarray(4 * head.channels);
    for (let i = 0; i < head.size; i++) {
      out[i] = ((numbers[i] << 24) >> 24) * scales[Math.floor(i / head.inner) % head.channels];
    }
    return 4 * head.channels + head.size;
  },
};

// A pack's facts, its file and its numbers: `values` in a row, `parts` as views of them.
export function unpack(bytes) {
  const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
  const facts = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  const file = bytes.slice(4 + length, 4 + length + facts.file);
  const values = new Float32Array(facts.parts.reduce((sum, head) => sum + head.size, 0));
  let rest = bytes.subarray(4 + length + facts.file), offset = 0;
  const parts = facts.parts.map((head) => {
    const out = values.subarray(offset, offset + head.size);
    rest = rest.subarray(readers[head.kind](head, rest, out));
    offset += head.size;
    return out;
  });
  return { facts, file, values, parts };
}

// Weights with what a training changed in them, as `difference` of export.py tells it.
export function changed(base, difference) {
  const values = base.values.slice();
  let offset = 0, next = 0;
  base.parts.forEach((part, index) => {
    const { rows, rank } = difference.facts.changes[index];
    const out = values.subarray(offset, offset + part.length);
    if (rows) {
      const left = difference.parts[next++], right = difference.parts[next++];
      const columns = right.length / rank;
      for (let i = 0; i < rows; i++) {
        for (let j = 0; j < columns; j++) {
          let sum = 0;
          for (let r = 0; r < rank; r++) sum += left[i * rank + r] * right[r * columns + j];
          out[i * columns + j] += sum;
        }
      }
    } else {
      const change = difference.parts[next++];
      for (let i = 0; i < out.length; i++) out[i] += change[i];
    }
    offset += part.length;
  });
  return values;
}
