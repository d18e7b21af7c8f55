/** Whether 32 bytes are a public key, as iroh decides it: a point on the curve. */

const P = 2n ** 255n - 19n
/** -121665/121666 mod P. */
const D = 37095705934669439343138083508754565189542113879843219016388785533085940283555n

function power(base: bigint, exponent: bigint): bigint {
  let result = 1n
  let square = base % P
  for (let rest = exponent; rest > 0n; rest >>= 1n) {
    if (rest & 1n) result = (result * square) % P
    square = (square * square) % P
  }
  return result
}

export function isPublicKey(bytes: Uint8Array): boolean {
  if (bytes.length !== 32) return false
  let y = 0n
  for (const byte of [...bytes].reverse()) y = (y << 8n) | BigInt(byte)
  y = (y & (2n ** 255n - 1n)) % P
  // x² = (y² - 1) / (d y² + 1) has a root exactly when the product of both has one.
  const yy = (y * y) % P
  const product = ((yy - 1n + P) * (D * yy + 1n)) % P
  return product === 0n || power(product, (P - 1n) / 2n) === 1n
}
