"use strict";

// Inflates (RFC 1951) into a given array. The browser's DecompressionStream leaves buffers behind at each use, and
// libraries leave tables: memory grew by 100 MB in a fast scroll through all images.
getamAudit.inflate = (() => {
  const LONGEST = 15; // bits of the longest code
  const ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
  const [LENGTHS, LENGTH_BITS] = ladder(3, 29, (code) => code < 8 ? 0 : (code >> 2) - 1);
  const [DISTANCES, DISTANCE_BITS] = ladder(1, 30, (code) => code < 4 ? 0 : (code >> 1) - 1);
  LENGTHS[28] = 258;
  LENGTH_BITS[28] = 0;
  const lengths = new Uint8Array(320);
  const symbols = newCode(288), distances = newCode(32);
  let source, at, hold, held;

  // The base value and the number of extra bits of each length or distance code.
  function ladder(first, count, bitsOf) {
    const bits = Uint8Array.from({ length: count }, (_, code) => bitsOf(code));
    let start = first;
    return [Uint16Array.from(bits, (width) => {
      start += 1 << width;
      return start - (1 << width);
    }), bits];
  }

  function newCode(size) {
    return { counts: new Uint16Array(LONGEST + 1), order: new Uint16Array(size), next: new Uint16Array(LONGEST + 2) };
  }

  function take(count) {
    while (held < count) {
      if (at >= source.length) throw new Error("too short");
      hold |= source[at++] << held;
      held += 8;
    }
    const value = hold & ((1 << count) - 1);
    hold >>>= count;
    held -= count;
    return value;
  }

  // Builds a canonical Huffman code: the number of symbols of each length, and the symbols in the order of their codes.
  function define({ counts, order, next }, from, size) {
    counts.fill(0);
    for (let symbol = 0; symbol < size; symbol++) counts[lengths[from + symbol]]++;
    next[1] = 0;
    for (let length = 1; length <= LONGEST; length++) next[length + 1] = next[length] + counts[length];
    for (let symbol = 0; symbol < size; symbol++) {
      if (lengths[from + symbol]) order[next[lengths[from + symbol]]++] = symbol;
    }
  }

  function symbolOf({ counts, order }) {
    let code = 0, first = 0, index = 0;
    for (let length = 1; length <= LONGEST; length++) {
      code |= take(1);
      const count = counts[length];
      if (code - count < first) return order[index + code - first];
      index += count;
      first = (first + count) << 1;
      code <<= 1;
    }
    throw new Error("no such code");
  }

  function defineFixed() {
    lengths.fill(8, 0, 144).fill(9, 144, 256).fill(7, 256, 280).fill(8, 280, 288);
    define(symbols, 0, 288);
    lengths.fill(5, 0, 30);
    define(distances, 0, 30);
  }

  function defineSent() {
    const count = take(5) + 257, distanceCount = take(5) + 1, lengthCount = take(4) + 4;
    lengths.fill(0, 0, 19);
    for (let i = 0; i < lengthCount; i++) lengths[ORDER[i]] = take(3);
    define(symbols, 0, 19);
    for (let i = 0; i < count + distanceCount;) {
      const symbol = symbolOf(symbols);
      if (symbol < 16) lengths[i++] = symbol;
      else {
        const value = symbol === 16 ? lengths[i - 1] : 0;
        const times = symbol === 16 ? 3 + take(2) : symbol === 17 ? 3 + take(3) : 11 + take(7);
        lengths.fill(value, i, i += times);
      }
    }
    define(distances, count, distanceCount);
    define(symbols, 0, count);
  }

  function adler(bytes) {
    let low = 1, high = 0;
    for (let i = 0; i < bytes.length;) {
      // The modulus is taken every 4096 bytes, before the sums grow beyond exact integers.
      for (const end = Math.min(bytes.length, i + 4096); i < end; i++) {
        low += bytes[i];
        high += low;
      }
      low %= 65521;
      high %= 65521;
    }
    return high * 65536 + low;
  }

  // Fills `out` from a zlib stream; throws if the stream is damaged.
  function inflate(bytes, out) {
    [source, at, hold, held] = [bytes, 2, 0, 0];
    let to = 0, last = false;
    while (!last) {
      last = take(1) === 1;
      const kind = take(2);
      if (kind === 0) {
        at += 4;
        hold = held = 0;
        const size = source[at - 4] | source[at - 3] << 8;
        out.set(source.subarray(at, at + size), to);
        at += size;
        to += size;
        continue;
      }
      if (kind === 1) defineFixed();
      else defineSent();
      for (let symbol = symbolOf(symbols); symbol !== 256; symbol = symbolOf(symbols)) {
        if (symbol < 256) out[to++] = symbol;
        else {
          const length = LENGTHS[symbol - 257] + take(LENGTH_BITS[symbol - 257]);
          const code = symbolOf(distances);
          const distance = DISTANCES[code] + take(DISTANCE_BITS[code]);
          for (const end = to + length; to < end; to++) out[to] = out[to - distance];
        }
      }
    }
    if (to !== out.length) throw new Error("another size");
    let sum = 0;
    for (let i = 0; i < 4; i++) sum = sum * 256 + source[at++];
    if (sum !== adler(out)) throw new Error("another checksum");
  }

  return inflate;
})();
