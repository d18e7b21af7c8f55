// Builds everything: `node tools/build.mjs [--profile release|dev] [--step wasm|opt|bundle|native]...`.
// Without --step all of them, each skipped when what it is made from has not changed.
//
//   wasm     crates/bindings → target/core-raw    wasm-pack, which calls cargo and wasm-bindgen
//   opt      target/core-raw → target/core        wasm-opt, and checks of what came out
//   bundle   ts/ + target/core → dist/            tools/bundle.mjs
//   native   crates/cli → target/debug/iroh-rooms
//
// The release profile is the default: it is what ships, so it is what the tests test. The dev profile
// compiles a change faster, skips wasm-opt, and is for working on the Rust side.

import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import {
  CORE_DIR,
  Stop,
  WASM_BINDGEN,
  at,
  fingerprint,
  firstLine,
  isFresh,
  main,
  run,
  setFresh,
  step,
} from './lib.mjs'

const RAW_DIR = at('target/core-raw')
const STEPS = ['wasm', 'opt', 'bundle', 'native']

/** Never --all-features: with it wasm-opt emits what no engine loads. These are what rustc emits, and SIMD. */
const WASM_FEATURES = [
  'bulk-memory',
  'bulk-memory-opt',
  'nontrapping-float-to-int',
  'sign-ext',
  'mutable-globals',
  'reference-types',
  'multivalue',
  'simd',
].map((name) => `--enable-${name}`)

/**
 * What is left to do after LLVM. Without inlining: with it the module is smaller as it is, but larger
 * after brotli, because inlined code repeats less (KiB brotli of one module: not optimised 1,148, -Oz
 * 1,203, -Os 1,161, this 1,074); rustc has inlined what is hot.
 */
const WASM_PASSES = [
  '-Os',
  '--one-caller-inline-max-function-size=1',
  '--always-inline-max-function-size=1',
  '--flexible-inline-max-function-size=1',
  '--strip-debug',
  '--strip-producers',
]

/**
 * `tests`: the native step compiles the tests of all crates as well. In one go, because cargo would
 * compile most dependencies twice otherwise: tests turn on more of their features.
 */
export async function build({ profile = 'release', steps = STEPS, tests = false } = {}) {
  const chain = async () => {
    if (steps.includes('wasm')) await step(`wasm (${profile})`, (note) => wasm(profile, note))
    if (steps.includes('opt')) await step('wasm-opt and checks', () => opt(profile))
    if (steps.includes('bundle')) await step('bundle', bundle)
  }
  // At the same time: the linking of the module keeps one core busy for a minute. Settled, not
  // raced, so that a failure of one does not cut the other off half way.
  const results = await Promise.allSettled([
    chain(),
    steps.includes('native') &&
      step(tests ? 'native program and tests' : 'native program', (note) => native(tests, note)),
  ])
  const failed = results.find((result) => result.status === 'rejected')
  if (failed) throw failed.reason
}

async function wasm(profile, note) {
  await checkBindgen()
  const rustc = await firstLine('rustc', '--version')
  const sources = (path) =>
    !/[\\/](tests|examples|benches)[\\/]/.test(path) &&
    !/[\\/]crates[\\/](cli|fuzz|sim)[\\/]/.test(path)
  const print = fingerprint(
    ['crates', 'Cargo.toml', 'Cargo.lock', '.cargo/config.toml'],
    `${profile} ${rustc}`,
    sources,
  )
  if (isFresh('wasm', print, [join(RAW_DIR, 'core_bg.wasm')])) return false
  const args = [
    'build',
    'crates/bindings',
    '--target',
    'web',
    '--mode',
    'no-install',
    '--no-pack',
    `--${profile}`,
  ]
  await run('wasm-pack', [...args, '--out-dir', RAW_DIR, '--out-name', 'core'], { onLine: note })
  setFresh('wasm', print)
}

/** The glue that the tool writes and the code that the crate expands to must be of one version. */
async function checkBindgen() {
  const locked = /name = "wasm-bindgen"\nversion = "([^"]+)"/.exec(
    readFileSync(at('Cargo.lock'), 'utf8'),
  )?.[1]
  const tool = (await firstLine('wasm-bindgen', '--version'))?.split(' ')[1]
  if (tool === undefined)
    throw new Stop('wasm-bindgen is not installed. Run\n  node tools/setup.mjs')
  if (locked !== tool) {
    throw new Stop(
      `Cargo.lock has wasm-bindgen ${locked}, the tool is ${tool}. Set WASM_BINDGEN in tools/lib.mjs (now ${WASM_BINDGEN}) and the workspace's Cargo.toml to the same version.`,
    )
  }
}

async function opt(profile) {
  if (!existsSync(join(RAW_DIR, 'core_bg.wasm')))
    throw new Stop('There is no module yet. Run\n  node tools/build.mjs --step wasm')
  const print = fingerprint(['target/core-raw', 'tools/build.mjs'], profile)
  if (isFresh('opt', print, [join(CORE_DIR, 'core_bg.wasm')])) return false
  mkdirSync(CORE_DIR, { recursive: true })
  copyFileSync(join(RAW_DIR, 'core.js'), join(CORE_DIR, 'core.js'))
  const types = readFileSync(join(RAW_DIR, 'core.d.ts'), 'utf8')
  writeFileSync(join(CORE_DIR, 'core.d.ts'), ownTypes(types))
  const [from, to] = [join(RAW_DIR, 'core_bg.wasm'), join(CORE_DIR, 'core_bg.wasm')]
  if (profile === 'dev') {
    copyFileSync(from, to)
  } else {
    const tool = at('node_modules/binaryen/bin/wasm-opt')
    if (!existsSync(tool)) throw new Stop('wasm-opt is not installed. Run\n  node tools/setup.mjs')
    await run(process.execPath, [tool, ...WASM_FEATURES, ...WASM_PASSES, from, '-o', `${to}.part`])
    renameSync(`${to}.part`, to)
  }
  checkModule()
  setFresh('opt', print)
}

/** Without what is not ours: classes of a dependency, and the signatures of the raw exports. */
const ownTypes = (types) =>
  types
    .replace(/export class IntoUnderlying\w+ \{[^]*?\n\}\n/g, '')
    .replace(
      /export interface InitOutput \{[^]*?\n\}/,
      'export interface InitOutput {\n    readonly memory: WebAssembly.Memory;\n}',
    )

function checkModule() {
  const imports = WebAssembly.Module.imports(
    new WebAssembly.Module(readFileSync(join(CORE_DIR, 'core_bg.wasm'))),
  )
  const env = imports.filter(({ module }) => module === 'env').map(({ name }) => name)
  if (env.length > 0) {
    throw new Stop(
      `The module imports from "env", which nothing provides: ${env.join(', ')}. Some crate links C that was not compiled for wasm32.`,
    )
  }
  const lines = readFileSync(join(CORE_DIR, 'core.d.ts'), 'utf8')
    .replace(/\/\*[^]*?\*\//g, (comment) => comment.replace(/[^\n]/g, ' '))
    .split('\n')
  const any = lines.flatMap((line, i) =>
    /\bany\b/.test(line.replace(/\/\/.*/, '')) ? [`  core.d.ts:${i + 1}: ${line.trim()}`] : [],
  )
  if (any.length > 0) {
    throw new Stop(
      `The generated types say "any". Give the argument or result a typescript_type in crates/bindings:\n${any.join('\n')}`,
    )
  }
}

async function bundle() {
  if (!existsSync(join(CORE_DIR, 'core_bg.wasm')))
    throw new Stop('There is no module yet. Run\n  node tools/build.mjs --step wasm --step opt')
  const inputs = [
    'ts/src',
    'ts/worker',
    'target/core',
    'tools/bundle.mjs',
    'package.json',
    'package-lock.json',
    ...configs(),
  ]
  const print = fingerprint(inputs)
  if (isFresh('bundle', print, [at('dist/core_bg.wasm')])) return false
  await run(process.execPath, [at('tools/bundle.mjs')])
  setFresh('bundle', print)
}

const configs = () => readdirSync(at('.')).filter((name) => /^tsconfig.*\.json$/.test(name))

/** Cargo knows by itself, and within half a second, whether there is anything to do. */
async function native(tests, note) {
  const what = tests ? ['--workspace', '--all-targets'] : ['-p', 'iroh-rooms-cli']
  const locked = process.env.CI ? ['--locked'] : []
  let compiled = false
  await run('cargo', ['build', ...what, ...locked], {
    onLine: (line) => {
      note(line)
      compiled ||= line.includes('Compiling')
    },
  })
  return compiled
}

await main(import.meta, async (args) => {
  const steps = []
  let profile = 'release'
  while (args.length > 0) {
    const [flag, value] = args.splice(0, 2)
    if (flag === '--step' && STEPS.includes(value)) steps.push(value)
    else if (flag === '--profile' && ['dev', 'release'].includes(value)) profile = value
    else
      throw new Stop(
        `usage: node tools/build.mjs [--profile release|dev] [--step ${STEPS.join('|')}]...`,
      )
  }
  await build({ profile, steps: steps.length > 0 ? steps : STEPS })
})
