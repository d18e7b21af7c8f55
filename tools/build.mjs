// Builds everything: `node tools/build.mjs [--profile release|dev|plain] [--step wasm|opt|bundle|native]...`.
// Without --step all of them, each skipped when what it is made from has not changed.
//
//   wasm     crates/bindings → target/core-raw    wasm-pack, which calls cargo and wasm-bindgen
//   opt      target/core-raw → target/core        wasm-opt, and checks of what came out
//   bundle   ts/ + target/core → dist/            tools/bundle.mjs
//   native   crates/cli → target/debug/iroh-rooms, with `--profile release` target/release/iroh-rooms
//
// Without --profile the module is a release, because that is what ships, so it is what the tests test,
// and the native program is a debug one. The dev profile compiles a change of the module faster, skips
// wasm-opt, and is for working on the Rust side. The plain profile is for the benchmark alone: a second
// module, without vectors and hot crates, and a Worker for it, in target/core-plain.

import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { join, relative } from 'node:path'
import { parseArgs } from 'node:util'
import {
  CORE_DIR,
  PLAIN_DIR,
  PROGRAM,
  RELEASE_PROGRAM,
  Stop,
  WASM_BINDGEN,
  at,
  fingerprint,
  firstLine,
  isFresh,
  main,
  root,
  run,
  setFresh,
  step,
} from './lib.mjs'

/** What a profile of the module is to cargo, where it goes, and the suffix of its stamps. */
const MODULES = {
  release: { cargo: 'wasm', raw: at('target/core-raw'), core: CORE_DIR, suffix: '' },
  dev: { cargo: 'dev', raw: at('target/core-raw'), core: CORE_DIR, suffix: '' },
  plain: {
    cargo: 'plain',
    raw: at('target/core-plain-raw'),
    core: PLAIN_DIR,
    suffix: '-plain',
    // Instead of what .cargo/config.toml has: no vectors, and C for size like the rest.
    env: {
      RUSTFLAGS: '--cfg getrandom_backend="wasm_js"',
      CFLAGS_wasm32_unknown_unknown: '-Os',
    },
  },
}
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
 * What is left to do after LLVM. What counts is the size after brotli, which likes what repeats: inlined
 * code and expressions that are computed once do so less, and functions of one name that were made for
 * several types do so most when they stand together. rustc has inlined what is hot.
 */
const WASM_PASSES = [
  '-Os',
  '--one-caller-inline-max-function-size=1',
  '--always-inline-max-function-size=1',
  '--flexible-inline-max-function-size=1',
  '--skip-pass=local-cse',
  '--reorder-functions-by-name',
  '--strip-debug',
  '--strip-producers',
]

/**
 * `tests`: the native step compiles the tests of all crates as well. In one go, because cargo would
 * compile most dependencies twice otherwise: tests turn on more of their features.
 */
export async function build({ profile, steps = STEPS, tests = false } = {}) {
  const module = profile ?? 'release'
  const chain = async () => {
    if (steps.includes('wasm')) await step(`wasm (${module})`, (note) => wasm(module, note))
    if (steps.includes('opt')) await step('wasm-opt and checks', () => opt(module))
    if (steps.includes('bundle')) await step('bundle', () => bundle(module))
  }
  // At the same time: the linking of the module keeps one core busy for a minute. Settled, not
  // raced, so that a failure of one does not cut the other off half way.
  const results = await Promise.allSettled([
    chain(),
    steps.includes('native') &&
      profile !== 'plain' &&
      step(tests ? 'native program and tests' : 'native program', (note) =>
        native(profile === 'release' ? 'release' : 'dev', tests, note),
      ),
  ])
  const failed = results.find((result) => result.status === 'rejected')
  if (failed) throw failed.reason
}

/** What a build of Rust is made from; `keep` leaves out what it does not reach. */
async function rustPrint(extra, keep) {
  const rustc = await firstLine('rustc', '--version')
  const sources = (path) => !/[\\/](tests|examples|benches)[\\/]/.test(path) && keep(path)
  return fingerprint(
    ['crates', 'Cargo.toml', 'Cargo.lock', '.cargo/config.toml'],
    `${extra} ${rustc}`,
    sources,
  )
}

async function wasm(profile, note) {
  await checkBindgen()
  const { cargo, raw, suffix, env } = MODULES[profile]
  const print = await rustPrint(
    `${profile} ${JSON.stringify(env)}`,
    (path) => !/[\\/]crates[\\/](cli|fuzz|sim)[\\/]/.test(path),
  )
  if (isFresh(`wasm${suffix}`, print, [join(raw, 'core_bg.wasm')])) return false
  const args = [
    'build',
    'crates/bindings',
    '--target',
    'web',
    '--mode',
    'no-install',
    '--no-pack',
    // It would download its own wasm-opt, and takes no named features.
    '--no-opt',
    '--profile',
    cargo,
  ]
  await run('wasm-pack', [...args, '--out-dir', raw, '--out-name', 'core'], { onLine: note, env })
  setFresh(`wasm${suffix}`, print)
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
  const { raw, core, suffix } = MODULES[profile]
  if (!existsSync(join(raw, 'core_bg.wasm')))
    throw new Stop('There is no module yet. Run\n  node tools/build.mjs --step wasm')
  const print = fingerprint([relative(root, raw), 'tools/build.mjs'], profile)
  if (isFresh(`opt${suffix}`, print, [join(core, 'core_bg.wasm')])) return false
  mkdirSync(core, { recursive: true })
  copyFileSync(join(raw, 'core.js'), join(core, 'core.js'))
  const types = readFileSync(join(raw, 'core.d.ts'), 'utf8')
  writeFileSync(join(core, 'core.d.ts'), ownTypes(types))
  const [from, to] = [join(raw, 'core_bg.wasm'), join(core, 'core_bg.wasm')]
  if (profile === 'dev') {
    copyFileSync(from, to)
  } else {
    const tool = at('node_modules/binaryen/bin/wasm-opt')
    if (!existsSync(tool)) throw new Stop('wasm-opt is not installed. Run\n  node tools/setup.mjs')
    await run(process.execPath, [tool, ...WASM_FEATURES, ...WASM_PASSES, from, '-o', `${to}.part`])
    renameSync(`${to}.part`, to)
  }
  checkModule(core)
  setFresh(`opt${suffix}`, print)
}

/** Without what is not ours: classes of a dependency, and the signatures of the raw exports. */
const ownTypes = (types) =>
  types
    .replace(/export class IntoUnderlying\w+ \{[^]*?\n\}\n/g, '')
    .replace(
      /export interface InitOutput \{[^]*?\n\}/,
      'export interface InitOutput {\n    readonly memory: WebAssembly.Memory;\n}',
    )

function checkModule(core) {
  const imports = WebAssembly.Module.imports(
    new WebAssembly.Module(readFileSync(join(core, 'core_bg.wasm'))),
  )
  const env = imports.filter(({ module }) => module === 'env').map(({ name }) => name)
  if (env.length > 0) {
    throw new Stop(
      `The module imports from "env", which nothing provides: ${env.join(', ')}. Some crate links C that was not compiled for wasm32.`,
    )
  }
  const lines = readFileSync(join(core, 'core.d.ts'), 'utf8')
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

async function bundle(profile) {
  const { core, suffix } = MODULES[profile]
  if (!existsSync(join(core, 'core_bg.wasm')))
    throw new Stop('There is no module yet. Run\n  node tools/build.mjs --step wasm --step opt')
  const inputs = [
    'ts/src',
    'ts/worker',
    'ts/testing',
    ...['core.js', 'core.d.ts', 'core_bg.wasm'].map((name) => relative(root, join(core, name))),
    'tools/bundle.mjs',
    'package.json',
    'package-lock.json',
    ...configs(),
  ]
  const print = fingerprint(inputs)
  const made = profile === 'plain' ? join(PLAIN_DIR, 'worker.js') : at('dist/core_bg.wasm')
  if (isFresh(`bundle${suffix}`, print, [made])) return false
  await run(process.execPath, [at('tools/bundle.mjs'), ...(suffix ? ['--plain'] : [])])
  setFresh(`bundle${suffix}`, print)
}

const configs = () => readdirSync(at('.')).filter((name) => /^tsconfig.*\.json$/.test(name))

/**
 * A program that is as it should be is left alone, although cargo would compile it once more after
 * the tests were built: alone it has other features of its dependencies than together with them.
 * Its time is in the print, so that one that cargo made by hand is not taken for ours.
 */
async function native(profile, tests, note) {
  const program = profile === 'release' ? RELEASE_PROGRAM : PROGRAM
  const sources = await rustPrint(
    profile,
    (path) => !/[\\/]crates[\\/](bindings|sim)[\\/]/.test(path),
  )
  const print = () => `${sources} ${statSync(program, { throwIfNoEntry: false })?.mtimeMs}`
  if (!tests && isFresh(`native-${profile}`, print(), [program])) return false
  const what = tests ? ['--workspace', '--all-targets'] : ['-p', 'iroh-rooms-cli']
  const locked = process.env.CI ? ['--locked'] : []
  let compiled = false
  await run('cargo', ['build', '--profile', profile, ...what, ...locked], {
    onLine: (line) => {
      note(line)
      compiled ||= line.includes('Compiling')
    },
  })
  setFresh(`native-${profile}`, print())
  return compiled
}

function choices(args) {
  try {
    const options = { profile: { type: 'string' }, step: { type: 'string', multiple: true } }
    const { profile, step: steps = [] } = parseArgs({ args, options }).values
    if ((profile ?? 'release') in MODULES && steps.every((step) => STEPS.includes(step))) {
      return { profile, steps }
    }
  } catch {
    // As said below.
  }
  throw new Stop(
    `usage: node tools/build.mjs [--profile ${Object.keys(MODULES).join('|')}] [--step ${STEPS.join('|')}]...`,
  )
}

await main(import.meta, async (args) => {
  const { profile, steps } = choices(args)
  await build({ profile, steps: steps.length > 0 ? steps : STEPS })
})
