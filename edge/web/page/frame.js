// One binary message of the monitor in; its frames, each with where its samples belong and the samples by lead, out.

const VERSION = 1,
  HEAD_BYTES = 32;
export const NO_SIGNAL = -32768;

/** {number, mask, start_s, time_s, rate_hz, count, mv_per_digit, rows: Int16Array[]} each; what comes after another version is left out. */
export function* readFrames(buffer) {
  for (let at = 0; at + HEAD_BYTES <= buffer.byteLength;) {
    const head = new DataView(buffer, at, HEAD_BYTES);
    if (head.getUint8(0) !== VERSION) return;
    const mask = head.getUint32(4, true),
      count = head.getUint32(28, true),
      begin = at + HEAD_BYTES,
      size = 2 * count;
    const rows = Array.from({ length: bits(mask) }, (_, i) => new Int16Array(buffer, begin + i * size, count));
    yield {
      number: head.getUint16(2, true),
      mask,
      count,
      rows,
      mv_per_digit: 10 ** head.getUint8(1) / 1000,
      start_s: head.getFloat64(8, true),
      time_s: head.getFloat64(16, true),
      rate_hz: head.getFloat32(24, true),
    };
    at = begin + rows.length * size;
  }
}

/** Those of `leads` that the mask names, in order. */
export function namedBy(mask, leads) {
  return leads.filter((_, i) => (mask >>> i) & 1);
}

function bits(mask) {
  let left = mask >>> 0,
    count = 0;
  for (; left; left >>>= 1) count += left & 1;
  return count;
}
