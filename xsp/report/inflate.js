// ---- gzip at once: the browser's own reader answers later, and paper does not wait ----
// RFC 1951, bit by bit: a hundred times slower than the browser's, and fast enough for one page.

const LENGTH_BASE = [3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258];
const LENGTH_BITS = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
const DISTANCE_BASE = [1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577];
const DISTANCE_BITS = [0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13];
const ORDER_OF_LENGTHS = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
const LONGEST_CODE = 15;
const STORED = 0, FIXED = 1;

class Bits {
  constructor(bytes, at) { this.bytes = bytes; this.at = at; this.held = 0; this.count = 0; }

  take(count) {
    while (this.count < count) {
      this.held |= this.bytes[this.at++] << this.count;
      this.count += 8;
    }
    const value = this.held & ((1 << count) - 1);
    this.held >>>= count;
    this.count -= count;
    return value;
  }

  // The rest of a byte that was begun is dropped.
  run(length) {
    this.held = this.count = 0;
    this.at += length;
    return this.bytes.subarray(this.at - length, this.at);
  }
}

class Code {
  constructor(lengths) {
    this.count = new Uint16Array(LONGEST_CODE + 1);
    for (const length of lengths) if (length) this.count[length]++;
    const next = new Uint16Array(LONGEST_CODE + 2);
    for (let length = 1; length <= LONGEST_CODE; length++) next[length + 1] = next[length] + this.count[length];
    this.symbols = new Uint16Array(lengths.length);
    lengths.forEach((length, symbol) => { if (length) this.symbols[next[length]++] = symbol; });
  }

  read(bits) {
    let code = 0, first = 0, index = 0;
    for (let length = 1; length <= LONGEST_CODE; length++) {
      code |= bits.take(1);
      const count = this.count[length];
      if (code - first < count) return this.symbols[index + code - first];
      index += count;
      first = (first + count) << 1;
      code <<= 1;
    }
    throw new Error("no such code");
  }
}

function fixedCodes() {
  const lengths = Array.from({ length: 288 }, (_, symbol) => (symbol < 144 ? 8 : symbol < 256 ? 9 : symbol < 280 ? 7 : 8));
  return [new Code(lengths), new Code(new Array(30).fill(5))];
}

function codesOf(bits) {
  const literals = bits.take(5) + 257, distances = bits.take(5) + 1, count = bits.take(4) + 4;
  const short = new Array(19).fill(0);
  for (const place of ORDER_OF_LENGTHS.slice(0, count)) short[place] = bits.take(3);
  const code = new Code(short), lengths = [];
  while (lengths.length < literals + distances) {
    const symbol = code.read(bits);
    if (symbol < 16) lengths.push(symbol);
    else if (symbol === 16) lengths.push(...new Array(3 + bits.take(2)).fill(lengths[lengths.length - 1]));
    else lengths.push(...new Array(symbol === 17 ? 3 + bits.take(3) : 11 + bits.take(7)).fill(0));
  }
  return [new Code(lengths.slice(0, literals)), new Code(lengths.slice(literals))];
}

// The bytes of a gzip file with a plain header, as gzip.compress of Python writes it.
function inflated(bytes) {
  const size = new DataView(bytes.buffer, bytes.byteOffset).getUint32(bytes.length - 4, true);
  const found = new Uint8Array(size), bits = new Bits(bytes, 10);
  let to = 0, last = false;
  while (!last) {
    last = bits.take(1) === 1;
    const kind = bits.take(2);
    if (kind === STORED) {
      const [low, high] = bits.run(4);
      found.set(bits.run(low | (high << 8)), to);
      to += low | (high << 8);
      continue;
    }
    const [literals, distances] = kind === FIXED ? fixedCodes() : codesOf(bits);
    for (let symbol = literals.read(bits); symbol !== 256; symbol = literals.read(bits)) {
      if (symbol < 256) {
        found[to++] = symbol;
        continue;
      }
      const length = LENGTH_BASE[symbol - 257] + bits.take(LENGTH_BITS[symbol - 257]);
      const place = distances.read(bits);
      const from = to - DISTANCE_BASE[place] - bits.take(DISTANCE_BITS[place]);
      for (let each = 0; each < length; each++) found[to++] = found[from + each];
    }
  }
  return found;
}

