// What every script here shares: where things are, how a command is run and ended, and how work
// that is already done is recognised. Only Node's own modules: it runs before `npm install`.

import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs'
import { createServer as createWebServer } from 'node:http'
import { createServer } from 'node:net'
import { homedir } from 'node:os'
import { delimiter, dirname, extname, join, normalize, relative } from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = dirname(dirname(fileURLToPath(import.meta.url)))
export const at = (...parts) => join(root, ...parts)

/** Where wasm-pack leaves the module; `tools/bundle.mjs` takes it from there. */
export const CORE_DIR = at('target/core')
/** The module that the benchmark compares with: see `--profile plain` of tools/build.mjs. */
export const PLAIN_DIR = at('target/core-plain')
/** The native program, as `cargo build` leaves it, and optimised, for the benchmark. */
export const PROGRAM = at('target/debug/iroh-rooms')
export const RELEASE_PROGRAM = at('target/release/iroh-rooms')

/** Tools that are built from source into `.tools`, one folder for each version. */
export const WASM_BINDGEN = '0.2.130'
export const WASM_PACK = '0.15.1'
const toolDirs = [`wasm-bindgen-${WASM_BINDGEN}`, `wasm-pack-${WASM_PACK}`].map((dir) =>
  at('.tools', dir, 'bin'),
)

// A shell that was opened before rustup was installed does not have cargo in its path.
process.env.PATH = [...toolDirs, process.env.PATH, join(homedir(), '.cargo/bin')].join(delimiter)

/** A reason to stop that the reader can act on: printed without a stack. */
export class Stop extends Error {}

const colour = process.stdout.isTTY && !process.env.NO_COLOR
const paint = (code) => (text) => (colour ? `\x1b[${code}m${text}\x1b[0m` : text)
export const bold = paint(1)
export const dim = paint(2)
export const red = paint(31)
export const green = paint(32)
export const seconds = (ms) => `${(ms / 1000).toFixed(1)} s`

/** The path of a program, or undefined. */
export function which(program) {
  for (const dir of process.env.PATH.split(delimiter)) {
    const path = join(dir, program)
    try {
      if (statSync(path).isFile()) return path
    } catch {
      // Not in this folder.
    }
  }
  return undefined
}

/** The Chromium that tests drive: CHROMIUM, or the first one installed. */
export function chromium() {
  if (process.env.CHROMIUM) return process.env.CHROMIUM
  return ['chromium', 'chromium-browser', 'google-chrome'].map(which).find(Boolean)
}

// ---------------------------------------------------------------------------------------------
// Commands. Each child leads a process group, so that its own children end with it. A browser leaves
// that group; so every child also carries a mark in its environment, by which what is left over is
// found afterwards, and nothing that somebody else started.

const MARK = 'IROH_ROOMS_RUN'
const running = new Set()
let started = 0

/** Ends a child and everything it started: first politely, after two seconds for good. */
export function stop(child, signal = 'SIGTERM') {
  if (!running.has(child)) return Promise.resolve()
  signalGroup(child, signal)
  const hard = setTimeout(() => signalGroup(child, 'SIGKILL'), 2_000)
  return child.ended.finally(() => clearTimeout(hard))
}

/** Kills what carries this child's mark and outlived it. Only Linux lets us look. */
function sweep(mark) {
  if (!existsSync('/proc/self/environ')) return
  for (const pid of readdirSync('/proc')) {
    if (!/^\d+$/.test(pid) || Number(pid) === process.pid) continue
    try {
      const variables = readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0')
      if (variables.some((it) => it === `${MARK}=${mark}` || it.startsWith(`${MARK}=${mark}/`)))
        process.kill(Number(pid), 'SIGKILL')
    } catch {
      // Ended meanwhile, or not ours to look at.
    }
  }
}

function signalGroup(child, signal) {
  try {
    process.kill(-child.pid, signal)
  } catch {
    // It is gone already.
  }
}

export const stopAll = () => Promise.all([...running].map((child) => stop(child)))

let ending = false
for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
  ['SIGHUP', 129],
]) {
  process.on(signal, () => {
    if (ending) return
    ending = true
    void stopAll().then(() => process.exit(code))
  })
}
process.on('exit', () => {
  for (const child of running) {
    signalGroup(child, 'SIGKILL')
    sweep(child.mark)
  }
})

/** Starts a command. `child.ended` resolves with `{ code, signal }` and never rejects. */
export function start(
  command,
  args,
  { env, cwd = root, stdio = ['ignore', 'inherit', 'inherit'] } = {},
) {
  const mark = `${process.env[MARK] ?? 'run'}/${process.pid}-${started++}`
  const child = spawn(command, args, {
    cwd,
    stdio,
    detached: true,
    env: { ...process.env, ...env, [MARK]: mark },
  })
  child.mark = mark
  running.add(child)
  child.ended = new Promise((resolve) => {
    child.once('error', (error) => resolve({ code: 127, signal: undefined, error }))
    // `close` comes when the pipes are empty, so that the last words are heard; not for ever, because
    // a grandchild may hold them.
    child.once('close', (code, signal) => resolve({ code: code ?? 1, signal }))
    child.once('exit', (code, signal) =>
      setTimeout(resolve, 1_000, { code: code ?? 1, signal }).unref(),
    )
  }).finally(() => {
    running.delete(child)
    sweep(mark)
  })
  return child
}

/** How much of a quiet command's output is kept to explain its failure. */
const TAIL_BYTES = 64 * 1024

/**
 * Runs a command to its end and returns its output. By default it is silent and shows its last lines
 * only if it fails; `show: true` passes everything through as it comes. `onLine` hears every line.
 */
export async function run(
  command,
  args,
  { show = false, limitMs = 30 * 60_000, onLine, check = true, ...options } = {},
) {
  const child = start(command, args, { ...options, stdio: ['ignore', 'pipe', 'pipe'] })
  let tail = ''
  let stdout = ''
  const hear = (to, isOut) => {
    let rest = ''
    return (text) => {
      if (show) to.write(text)
      if (isOut) stdout += text
      tail = (tail + text).slice(-TAIL_BYTES)
      const lines = (rest + text).split(/[\r\n]+/)
      rest = lines.pop() ?? ''
      if (onLine) for (const line of lines) if (line) onLine(line)
    }
  }
  child.stdout?.setEncoding('utf8').on('data', hear(process.stdout, true))
  child.stderr?.setEncoding('utf8').on('data', hear(process.stderr, false))
  let late = false
  const timer = setTimeout(() => {
    late = true
    void stop(child)
  }, limitMs)
  const { code, error } = await child.ended
  clearTimeout(timer)
  const result = { code: late ? 124 : code, stdout, tail, late }
  if (!check || (code === 0 && !late)) return result
  const words = [command.replace(`${root}/`, ''), ...args].join(' ')
  const why =
    error?.code === 'ENOENT'
      ? 'not found'
      : late
        ? `not finished after ${seconds(limitMs)}`
        : `exit code ${code}`
  throw new Stop(
    `${words}: ${why}${show ? '' : `\n${tail.trim().split('\n').slice(-60).join('\n')}`}`,
  )
}

/** The first line that a command prints, or undefined if it is not there or fails. */
export async function firstLine(command, ...args) {
  const { code, stdout } = await run(command, args, { check: false, limitMs: 30_000 })
  return code === 0 ? stdout.trim().split('\n')[0] : undefined
}

// ---------------------------------------------------------------------------------------------
// Steps: named, timed, and with a sign of life while they work.

const LIFE_MS = 20_000

/**
 * One step: `work(note)` returns `false` if there was nothing to do. What it notes is shown as a sign
 * of life every twenty seconds, so that nobody wonders whether a compiler has died.
 */
export async function step(name, work) {
  const began = Date.now()
  let last = ''
  const life = setInterval(() => {
    console.log(
      dim(
        `  … ${name}, ${seconds(Date.now() - began)}${last ? `: ${last.trim().slice(0, 90)}` : ''}`,
      ),
    )
  }, LIFE_MS)
  try {
    const result = await work((line) => (last = line))
    const took = Date.now() - began
    console.log(
      result === false
        ? dim(`  = ${name}: up to date`)
        : `${green('  ✓')} ${name} ${dim(seconds(took))}`,
    )
    return result
  } catch (error) {
    console.log(`${red('  ✗')} ${name} ${dim(seconds(Date.now() - began))}`)
    throw error
  } finally {
    clearInterval(life)
  }
}

/**
 * Runs named tests one after the other, then `cleanUp`, and ends with the line that is counted. The
 * others need the first `needed` of them: without these they are not tried, and failed.
 */
export async function runTests(tests, cleanUp, needed = 1) {
  let passed = 0
  try {
    for (const [name, test] of tests) {
      try {
        await step(name, test)
        passed++
      } catch (error) {
        console.error(error instanceof Stop ? error.message : error.stack)
        if (passed < needed) break
      }
    }
  } finally {
    await cleanUp()
  }
  const failed = tests.length - passed
  console.log(`\n${passed} passed, ${failed} failed`)
  if (failed > 0) process.exitCode = 1
}

/** Runs a script's main function: a `Stop` is printed as it is, anything else with its stack. */
export async function main(meta, work) {
  if (process.argv[1] !== fileURLToPath(meta.url)) return
  try {
    await work(process.argv.slice(2))
  } catch (error) {
    if (!ending)
      console.error(`\n${red('Stopped:')} ${error instanceof Stop ? error.message : error.stack}`)
    process.exitCode = 1
    await stopAll()
  }
}

// ---------------------------------------------------------------------------------------------
// Stamps: what a step was made from, so that it is skipped when that has not changed.

/** Every file below these paths that `keep` accepts, sorted; a path that is missing counts for nothing. */
export function filesBelow(paths, keep = () => true) {
  const found = []
  const visit = (path) => {
    const info = statSync(path, { throwIfNoEntry: false })
    if (!info) return
    if (!info.isDirectory()) return void (keep(path) && found.push(path))
    for (const name of readdirSync(path)) {
      if (!['node_modules', 'target', 'dist', '.git'].includes(name)) visit(join(path, name))
    }
  }
  for (const path of paths) visit(at(path))
  return found.toSorted()
}

/** A hash of names and contents. By content: a fresh clone gives every file a new time. */
export function fingerprint(paths, extra = '', keep) {
  const hash = createHash('sha256').update(extra)
  for (const path of filesBelow(paths, keep))
    hash.update(`\0${relative(root, path)}\0`).update(readFileSync(path))
  return hash.digest('hex')
}

const stampPath = (name) => at('target/stamps', name)

/** Whether a step was last finished with this print and what it made still exists. */
export function isFresh(name, print, outputs = []) {
  if (!outputs.every((path) => existsSync(path))) return false
  return existsSync(stampPath(name)) && readFileSync(stampPath(name), 'utf8') === print
}

export function setFresh(name, print) {
  mkdirSync(dirname(stampPath(name)), { recursive: true })
  writeFileSync(stampPath(name), print)
}

// ---------------------------------------------------------------------------------------------

/** The wanted port on the loopback if it is free, otherwise any free one. */
export async function freePort(wanted = 0) {
  return (await tryPort(wanted)) ?? (await tryPort(0))
}

const tryPort = (wanted) =>
  new Promise((resolve) => {
    const server = createServer()
    server.once('error', () => resolve(undefined))
    server.listen(wanted, '127.0.0.1', () => {
      const { port } = server.address()
      server.close(() => resolve(port))
    })
  })

/** Serves the files of a folder on the loopback, as they are: `url`, and `close()`. */
export async function serveFolder(folder) {
  const server = createWebServer((request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url, 'http://localhost').pathname))
    const type = { '.html': 'text/html', '.js': 'text/javascript', '.wasm': 'application/wasm' }[
      extname(path)
    ]
    const file = statSync(join(folder, path), { throwIfNoEntry: false })
    if (!file?.isFile()) return void response.writeHead(404).end()
    response.writeHead(200, { 'content-type': type ?? 'application/octet-stream' })
    response.end(readFileSync(join(folder, path)))
  })
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  const close = () => {
    server.close()
    server.closeAllConnections()
  }
  return { url: `http://127.0.0.1:${server.address().port}`, close }
}

const readyLine = (line) => {
  if (!line.startsWith('{')) return undefined
  const value = JSON.parse(line)
  return value.type === 'ready' ? value : undefined
}

/**
 * Starts a command that stays, and waits until `pick` finds in a line of its output what is waited
 * for: by default the `{"type":"ready"}` that every command of the native program begins with. With
 * `input` its standard input can be written to.
 */
export async function startService(
  command,
  args,
  { limitMs = 20_000, pick = readyLine, input = false, ...options } = {},
) {
  const stdio = [input ? 'pipe' : 'ignore', 'pipe', 'pipe']
  const child = start(command, args, { ...options, stdio })
  const words = [command.replace(`${root}/`, ''), ...args].join(' ')
  let said = ''
  const hear = (text) => (said = (said + text).slice(-TAIL_BYTES))
  const ready = await new Promise((resolve, reject) => {
    const timer = setTimeout(
      () => reject(new Stop(`${words}: not ready after ${seconds(limitMs)}\n${said}`)),
      limitMs,
    )
    child.ended.then(({ code }) => {
      clearTimeout(timer)
      reject(new Stop(`${words}: ended with ${code}\n${said}`))
    })
    // Both are read for as long as the child lives: a full pipe would stop it.
    for (const stream of [child.stdout, child.stderr]) {
      let rest = ''
      stream?.setEncoding('utf8').on('data', (text) => {
        hear(text)
        const lines = (rest + text).split('\n')
        rest = lines.pop() ?? ''
        for (const line of lines) {
          const value = pick(line)
          if (value === undefined) continue
          clearTimeout(timer)
          resolve(value)
        }
      })
    }
  }).catch(async (error) => {
    await stop(child)
    throw error
  })
  return { child, ready, said: () => said }
}
