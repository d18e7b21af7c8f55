import { browserRuntime } from './host-browser.js'
import type { Runtime } from './runtime.js'

export const runtime: Runtime = browserRuntime(
  // Bundlers look for exactly this expression.
  () => new Worker(new URL('./worker.js', import.meta.url), { type: 'module' }),
)
