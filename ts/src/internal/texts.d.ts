// Made by tools/bundle.mjs.

declare module '#worker-text' {
  /** The Worker's script. */
  const text: string
  export default text
}

declare module '#core-text' {
  /** core_bg.wasm, gzip, base64. */
  const text: string
  export default text
}
