/** The WebAssembly as a part of the script. */
import core from '#core-text'

let module: Promise<WebAssembly.Module> | undefined

/** Unpacks and compiles it, once. */
export function embeddedCore(): Promise<WebAssembly.Module> {
  module ??= compile()
  return module
}

async function compile(): Promise<WebAssembly.Module> {
  const packed = Uint8Array.from(atob(core), (char) => char.charCodeAt(0))
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream('gzip'))
  const headers = { 'content-type': 'application/wasm' }
  return WebAssembly.compileStreaming(new Response(stream, { headers }))
}
