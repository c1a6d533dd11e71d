// The numbers that torch.rand and torch.randn draw on a CPU, so that what begins with noise begins here as in Python.

/** MT19937 of Matsumoto and Nishimura (1998), as torch.Generator has it. */
export class Twister {
  /** @param {bigint} seed  Of which MT19937 takes the low 32 bits. */
  constructor(seed) {
    this.words = new Uint32Array(624);
    this.words[0] = Number(seed & 0xffffffffn);
    for (let i = 1; i < 624; i++) {
      const last = this.words[i - 1];
      this.words[i] = Math.imul(1812433253, last ^ (last >>> 30)) + i;
    }
    this.place = 624;
  }

  /** 32 random bits. */
  bits() {
    if (this.place === 624) this.refill();
    let y = this.words[this.place++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  refill() {
    const w = this.words;
    for (let i = 0; i < 624; i++) {
      const y = (w[i] & 0x80000000) | (w[(i + 1) % 624] & 0x7fffffff);
      w[i] = w[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    this.place = 0;
  }

  /** A number in [0, 1) of 24 bits. */
  uniform() {
    return (this.bits() & 0xffffff) / 16777216;
  }

  /**
   * Normal numbers by the method of Box and Muller, in groups of 16 as torch has them; the last group is drawn anew where
   * others end before it does. They agree with torch's to the rounding of its logarithms.
   * @param {number} count  At least 16.
   */
  normals(count) {
    const values = Float64Array.from({ length: count }, () => this.uniform());
    const fill = (group) => {
      for (let i = 0; i < 8; i++) {
        const radius = Math.sqrt(-2 * Math.log(1 - group[i]));
        const angle = 2 * Math.PI * group[i + 8];
        [group[i], group[i + 8]] = [radius * Math.cos(angle), radius * Math.sin(angle)];
      }
    };
    for (let at = 0; at + 16 <= count; at += 16) fill(values.subarray(at, at + 16));
    if (count % 16) {
      const last = values.subarray(count - 16);
      last.forEach((_, i) => (last[i] = this.uniform()));
      fill(last);
    }
    return values;
  }
}
