// A name for the weights of an automaton, by which replays know it: nca_fast/canvas/replay.py.

/**
 * CRC-32 of bytes, continued from that of those before.
 * @param {Uint8Array} bytes
 * @param {number} crc
 */
function crc32(bytes, crc) {
  crc = ~crc;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (0xedb88320 & -(crc & 1));
  }
  return ~crc >>> 0;
}

/**
 * Eight hexadecimal digits.
 * @param {import("./model.js").Model} model
 */
export function checksum({ network, rules }) {
  const of = ({ layers, kernels }) => [...layers.flatMap(({ weight, bias }) => (bias ? [weight, bias] : [weight])), ...(kernels ? [kernels] : [])];
  const parts = (rules ? rules.networks : [network]).flatMap(of);
  const crc = parts.reduce((before, { buffer, byteOffset, byteLength }) => crc32(new Uint8Array(buffer, byteOffset, byteLength), before), 0);
  return crc.toString(16).padStart(8, "0");
}
