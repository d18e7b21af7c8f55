/** Entry of the Worker in Node. */
import { readFile } from 'node:fs/promises'
import { workerData } from 'node:worker_threads'

import type * as Ws from 'ws'

import init, * as module from '#core'
import { serve } from './boot.js'
import { nodeScope } from './scope-node.js'
import { likeBrowsers } from './web-socket.js'
import type { CoreModule } from './core-module.js'

serve(nodeScope(), async (wasm): Promise<CoreModule> => {
  await installWebSocket()
  await init({ module_or_path: await source(wasm) })
  return module
})

/** Node 20 has no WebSocket of its own. */
async function installWebSocket(): Promise<void> {
  if ('WebSocket' in globalThis) return
  // `./inline` says where it is: nothing lies beside its Worker's script.
  const { ws: place } = (workerData ?? {}) as { ws?: string }
  const ws = place === undefined ? await import('ws') : ((await import(place)) as typeof Ws)
  Object.assign(globalThis, { WebSocket: likeBrowsers(ws) })
}

async function source(
  wasm: string | BufferSource | WebAssembly.Module | undefined,
): Promise<BufferSource | WebAssembly.Module | Response> {
  if (wasm !== undefined && typeof wasm !== 'string') return wasm
  const url = new URL(wasm ?? './core_bg.wasm', import.meta.url)
  return url.protocol === 'file:' ? readFile(url) : fetch(url)
}
