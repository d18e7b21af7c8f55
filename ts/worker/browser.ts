/** Entry of the Worker in browsers. */
import init, * as module from '#core'
import { serve } from './boot.js'
import { browserScope } from './scope-browser.js'
import type { CoreModule } from './core-module.js'

serve(browserScope(), async (wasm): Promise<CoreModule> => {
  // Without an address the generated code finds core_bg.wasm beside this script: it holds the one
  // literal that bundlers look for.
  await (wasm === undefined ? init() : init({ module_or_path: wasm }))
  return module
})
