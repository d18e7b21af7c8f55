// Makes a machine ready: `node tools/setup.mjs`. Installs only what is missing, says what
// it may not install and how to, and is done in a moment when everything is there.
//
// 1. rustup and a compiler that is new enough: never installed by us, named if missing
// 2. at the same time: Debian packages, npm packages, and from source wasm-bindgen and wasm-pack
//    (one after the other: they share what they depend on, and a laptop has two cores)

import { existsSync, readFileSync, rmSync } from 'node:fs'
import {
  Stop,
  WASM_BINDGEN,
  WASM_PACK,
  at,
  chromium,
  firstLine,
  main,
  run,
  step,
  which,
} from './lib.mjs'

/** What is needed, by the program that proves it, and the Debian package that brings it. */
const PROGRAMS = [
  ['clang', 'clang', 'ring has C inside, and wasm32 needs clang for it'],
  ['llvm-ar', 'llvm', "puts clang's objects into an archive"],
  ['protoc', 'protobuf-compiler', 'generates the messages of raft'],
]
const BROWSER = ['chromium', 'chromium', 'the tests load the package in a browser']

/** `needsBrowser: false`: a browser is installed if that is allowed, and otherwise done without. */
export async function setup({ needsBrowser = true } = {}) {
  await step('rust', rust)
  // Before anything that takes minutes: this may end here.
  const packages = await missingPackages(needsBrowser)
  const results = await Promise.allSettled([
    step('system packages', () => installPackages(packages)),
    step('npm packages', npmPackages),
    step(`wasm-bindgen ${WASM_BINDGEN}`, wasmBindgen)
      .then(() => step(`wasm-pack ${WASM_PACK}`, wasmPack))
      .then(() => rmSync(CARGO_CACHE, { recursive: true, force: true })),
  ])
  const failed = results
    .filter((result) => result.status === 'rejected')
    .map((result) => result.reason)
  // All of them together: whoever has to install something by hand wants to do it once.
  if (failed.every((error) => error instanceof Stop) && failed.length > 1) {
    throw new Stop(failed.map((error) => error.message).join('\n\n'))
  }
  if (failed.length > 0) throw failed[0]
}

async function rust(note) {
  if (!which('rustup') || !which('cargo')) {
    throw new Stop(
      'rustup is missing. Install it with\n' +
        "  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y\n" +
        'and run this again.',
    )
  }
  const wanted = /rust-version = "(\d+)\.(\d+)"/.exec(readFileSync(at('Cargo.toml'), 'utf8'))
  // Where rustup has no toolchain yet, this first use brings the one of rust-toolchain.toml.
  const { stdout: version } = await run('rustc', ['--version'], { check: false, onLine: note })
  const got = /rustc (\d+)\.(\d+)/.exec(version ?? '')
  if (!got || Number(got[1]) !== Number(wanted[1]) || Number(got[2]) < Number(wanted[2])) {
    throw new Stop(
      `Rust ${wanted[1]}.${wanted[2]} or later is needed, this is ${version.trim() || 'none'}. Run\n  rustup update stable`,
    )
  }
  const installed = async (kind) =>
    (await run('rustup', [kind, 'list', '--installed'], { limitMs: 30_000 })).stdout
  const [targets, components] = [await installed('target'), await installed('component')]
  const missing = ['rustfmt', 'clippy'].filter((name) => !components.includes(name))
  const target = 'wasm32-unknown-unknown'
  if (targets.includes(target) && missing.length === 0) return false
  if (!targets.includes(target)) await run('rustup', ['target', 'add', target], { onLine: note })
  if (missing.length > 0) await run('rustup', ['component', 'add', ...missing], { onLine: note })
}

const isRoot = process.getuid?.() === 0

/** The Debian packages to install, after making sure that this may be done. */
async function missingPackages(needsBrowser) {
  const missing = PROGRAMS.filter(([program]) => !which(program))
  if (!chromium()) missing.push(BROWSER)
  if (missing.length === 0) return []
  const hasApt = which('apt-get') !== undefined
  const maySudo = async () => (await run('sudo', ['-n', 'true'], { check: false })).code === 0
  if (hasApt && (isRoot || (await maySudo()))) return missing.map(([, name]) => name)

  const wanted = missing.filter((it) => it !== BROWSER || needsBrowser)
  if (wanted.length === 0) return []
  const list = wanted.map(([program, , why]) => `  ${program}: ${why}`).join('\n')
  const names = wanted.map(([, name]) => name).join(' ')
  const how = hasApt
    ? `Install with\n  sudo apt-get install -y ${names}`
    : `Install with your system's package manager; Debian's names are: ${names}.`
  throw new Stop(`Missing, and not ours to install here:\n${list}\n${how}\nand run this again.`)
}

async function installPackages(packages) {
  if (packages.length === 0) return false
  const apt = (...args) =>
    run(isRoot ? 'apt-get' : 'sudo', [...(isRoot ? [] : ['-n', 'apt-get']), ...args], {
      env: { DEBIAN_FRONTEND: 'noninteractive' },
      limitMs: 10 * 60_000,
    })
  await apt('update')
  await apt('install', '-y', '--no-install-recommends', ...packages)
}

/** Tools build into one folder, so that what they share is compiled once; it is removed afterwards. */
export const CARGO_CACHE = at('.tools/build')

async function wasmBindgen(note) {
  const folder = at('.tools', `wasm-bindgen-${WASM_BINDGEN}`)
  if (
    (await firstLine(`${folder}/bin/wasm-bindgen`, '--version')) === `wasm-bindgen ${WASM_BINDGEN}`
  )
    return false
  // Not --locked: its lock file names a release that was withdrawn.
  await cargoInstall(
    ['wasm-bindgen-cli', '--version', WASM_BINDGEN, '--bin', 'wasm-bindgen'],
    folder,
    note,
  )
}

async function wasmPack(note) {
  const folder = at('.tools', `wasm-pack-${WASM_PACK}`)
  if ((await firstLine(`${folder}/bin/wasm-pack`, '--version')) === `wasm-pack ${WASM_PACK}`)
    return false
  await cargoInstall(['wasm-pack', '--version', WASM_PACK, '--locked'], folder, note)
}

/** Builds a program from the registry, in `CARGO_CACHE`. */
export async function cargoInstall(args, folder, note) {
  // From the root of the file system, so that this workspace's settings do not apply.
  await run('cargo', ['install', ...args, '--root', folder, '--force'], {
    cwd: '/',
    onLine: note,
    env: {
      CARGO_TARGET_DIR: CARGO_CACHE,
      // They run for seconds and are built once: quick to build counts for more than quick to run.
      CARGO_PROFILE_RELEASE_OPT_LEVEL: '1',
      CARGO_PROFILE_RELEASE_LTO: 'off',
      CARGO_PROFILE_RELEASE_CODEGEN_UNITS: '16',
    },
  })
}

async function npmPackages(note) {
  const read = (path) =>
    existsSync(at(path)) ? JSON.parse(readFileSync(at(path), 'utf8')).packages : undefined
  const wanted = read('package-lock.json')
  // npm writes down what it has installed; by content, because a clone gives every file a new time.
  const got = read('node_modules/.package-lock.json')
  const isThere = ([path, { version, link, optional }]) =>
    path === '' ||
    link ||
    optional ||
    !path.includes('node_modules') ||
    got[path]?.version === version
  if (wanted && got && Object.entries(wanted).every(isThere)) return false
  // Not `npm ci`: it refuses a lock file that lacks packages for platforms which a mirror does not serve.
  // What is in the lock file is installed in that version either way.
  await run('npm', ['install', '--no-audit', '--no-fund'], {
    onLine: note,
    limitMs: 10 * 60_000,
  })
}

await main(import.meta, () => setup())
