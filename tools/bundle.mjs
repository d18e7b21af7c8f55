// Bundles the package into dist/: one self-contained file for each thread and platform, the
// WebAssembly beside them, and the types.
//
//   index.js   node.js          the library, for browsers and for Node
//   worker.js  worker-node.js   the Worker's script, Comlink and the generated glue inside
//   core_bg.wasm                named by exactly one `new URL(...)` in each Worker's script
//   inline.js  inline-node.js   the library again, with the Worker's script in it as a text, and in that
//                               the module, compressed: inline-core.js, which both share
//   testing.js                  the network in memory; it imports the library by its name
//   types/                      declarations; what is marked @internal is left out
//
// With --plain only worker.js, around the benchmark's second module and beside it.

import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gzipSync } from 'node:zlib'

import { rolldown } from 'rolldown'

import { CORE_DIR, PLAIN_DIR, run } from './lib.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const at = (...parts) => join(root, ...parts)
const plain = process.argv.includes('--plain')
const dist = plain ? PLAIN_DIR : at('dist')

/** Bundlers of applications look for this literal, with the dot; the generated code has none. */
const WASM_LITERAL = "new URL('./core_bg.wasm', import.meta.url)"

const glue = {
  name: 'core-glue',
  load(id) {
    if (id !== join(CORE_DIR, 'core.js')) return null
    const code = readFileSync(plain ? join(PLAIN_DIR, 'core.js') : id, 'utf8')
    const parts = code.split("new URL('core_bg.wasm', import.meta.url)")
    if (parts.length !== 2) {
      this.error(
        `core.js names core_bg.wasm ${parts.length - 1} times, once is expected: wasm-bindgen has changed`,
      )
    }
    return parts.join(WASM_LITERAL)
  },
}

/** The minifier writes strings as templates; not every bundler takes those for a literal. */
const literals = {
  name: 'url-literals',
  generateBundle(_options, files) {
    for (const file of Object.values(files)) {
      if (file.type !== 'chunk') continue
      file.code = file.code.replaceAll(/new URL\(`([^`$]*)`,/g, "new URL('$1',")
    }
  },
}

/** Files of dist/ as texts within others: the Worker's script, and the module in one of its own. */
const texts = (script) => ({
  name: 'texts',
  resolveId(id) {
    if (id === '#worker-text') return id
    return id === '#core-text' ? { id: './inline-core.js', external: true } : null
  },
  load(id) {
    if (id !== '#worker-text') return null
    const code = readFileSync(join(dist, script), 'utf8').replace(
      /^\/\/# sourceMappingURL=.*$/m,
      '',
    )
    return `export default ${JSON.stringify(code)}`
  },
})

/** The library as applications import it, so that both have the same classes. */
const byName = {
  name: 'by-name',
  resolveId: (id) => (id.endsWith('/src/index.js') ? { id: 'iroh-rooms', external: true } : null),
}

const LIBRARY = 'ts/src/index.ts'
const NODE = [/^node:/]
const outputs = [
  { input: LIBRARY, file: 'index.js', platform: 'browser' },
  { input: LIBRARY, file: 'node.js', platform: 'node', external: NODE },
  { input: 'ts/worker/browser.ts', file: 'worker.js', platform: 'browser' },
  // ws is a dependency of the package: only Node 20 loads it.
  {
    input: 'ts/worker/node.ts',
    file: 'worker-node.js',
    platform: 'node',
    external: [...NODE, 'ws'],
  },
  {
    input: LIBRARY,
    file: 'inline.js',
    platform: 'browser',
    conditions: ['inline'],
    plugins: [texts('worker.js')],
  },
  {
    input: LIBRARY,
    file: 'inline-node.js',
    platform: 'node',
    external: NODE,
    conditions: ['inline'],
    plugins: [texts('worker-node.js')],
  },
  { input: 'ts/testing/index.ts', file: 'testing.js', platform: 'browser', plugins: [byName] },
]

if (!plain) rmSync(dist, { recursive: true, force: true })
mkdirSync(dist, { recursive: true })

for (const output of outputs) {
  const { input, file, platform, external = [], conditions = [], plugins = [] } = output
  if (plain && file !== 'worker.js') continue
  const bundle = await rolldown({
    input: at(input),
    platform,
    external,
    plugins: [...plugins, glue, literals],
    resolve: {
      conditionNames: [...conditions, platform === 'node' ? 'node' : 'browser', 'import'],
    },
    tsconfig: at('tsconfig.json'),
    onLog(level, log, handle) {
      if (level === 'warn') throw new Error(`${file}: ${log.message}`)
      handle(level, log)
    },
  })
  await bundle.write({
    file: join(dist, file),
    format: 'es',
    // Class names are what people see in their console.
    minify: {
      mangle: { keepNames: { class: true, function: false } },
      compress: { keepNames: { class: true, function: false } },
    },
    sourcemap: true,
    codeSplitting: false,
    comments: { legal: true, annotation: true, jsdoc: false },
  })
  await bundle.close()
}

if (!plain) {
  const core = readFileSync(join(CORE_DIR, 'core_bg.wasm'))
  writeFileSync(join(dist, 'core_bg.wasm'), core)
  const packed = gzipSync(core, { level: 9 }).toString('base64')
  writeFileSync(join(dist, 'inline-core.js'), `export default '${packed}'\n`)
  await run(process.execPath, [
    at('node_modules/typescript/bin/tsc'),
    '-p',
    at('tsconfig.build.json'),
  ])
}
