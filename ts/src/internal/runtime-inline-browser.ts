import script from '#worker-text'
import { browserRuntime } from './host-browser.js'
import { embeddedCore } from './inline-core.js'
import type { Runtime } from './runtime.js'

let url: string | undefined

export const runtime: Runtime = browserRuntime(() => {
  url ??= URL.createObjectURL(new Blob([script], { type: 'text/javascript' }))
  return new Worker(url, { type: 'module' })
}, embeddedCore)
