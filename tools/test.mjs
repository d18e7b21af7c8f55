// `npm test [layer]...`: sets up, builds, and runs the tests, all layers or those named. Prints what
// took how long and ends with the line 'N passed, N failed'. Nothing can hang: every layer has a
// limit, and whatever it started ends with it.

import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs'
import { build } from './build.mjs'
import { Stop, at, bold, chromium, dim, green, main, red, run, seconds, which } from './lib.mjs'
import { setup } from './setup.mjs'

const MINUTE = 60_000
const vitest = (project) => ({
  command: [
    at('node_modules/.bin/vitest'),
    'run',
    '--project',
    project,
    '--reporter=default',
    '--reporter=json',
    `--outputFile.json=${report(project)}`,
  ],
  count: () => countVitest(report(project)),
})
const script = (name, ...args) => ({
  command: [process.execPath, at('tools', name), ...args],
  count: countLine,
})

/** What each layer needs built first: `module` is dist/, `native` the program. */
const LAYERS = {
  check: {
    about: 'format, lints, types, arrows',
    needs: ['module'],
    limit: 12 * MINUTE,
    ...script('check.mjs'),
  },
  rust: {
    about: 'the crates',
    needs: ['native'],
    limit: 12 * MINUTE,
    command: rustTests(),
    count: countCargo,
  },
  interop: {
    about: 'with moq-tokio, an implementation of MoQ by others',
    needs: [],
    // Its dependencies are compiled the first time: minutes on a slow machine.
    limit: 15 * MINUTE,
    command: interopTests(),
    count: countCargo,
  },
  fuzz: {
    about: 'what reads bytes of peers, fed with invented ones',
    needs: ['native'],
    limit: 10 * MINUTE,
    ...script('fuzz.mjs', '--seconds', '20'),
  },
  sim: {
    about: 'rooms with agreed state, each with faults of its own',
    needs: ['native'],
    limit: 10 * MINUTE,
    command: [at('target/debug/iroh-rooms-sim'), '--seeds', '4000', '--known'],
    count: countLine,
  },
  node: {
    about: 'TypeScript in Node',
    needs: ['module', 'native'],
    limit: 4 * MINUTE,
    ...vitest('node'),
  },
  chromium: {
    about: 'TypeScript in a browser',
    needs: ['module', 'native'],
    limit: 5 * MINUTE,
    ...vitest('chromium'),
  },
  e2e: {
    about: 'tabs, Node and terminal in one room',
    needs: ['module', 'native'],
    limit: 16 * MINUTE,
    ...vitest('e2e'),
  },
  examples: {
    about: 'built, run, talked to',
    needs: ['module', 'native'],
    limit: 4 * MINUTE,
    ...script('examples-test.mjs'),
  },
  pack: {
    about: 'the package as shipped',
    needs: ['module', 'native'],
    limit: 4 * MINUTE,
    ...script('pack-test.mjs'),
  },
  size: { about: 'within the budget', needs: ['module'], limit: MINUTE, ...script('size.mjs') },
}

async function runLayer(name, { command, limit, count }) {
  mkdirSync(at('target/reports'), { recursive: true })
  rmSync(report(name), { force: true })
  const [program, ...args] = command
  const { code, tail, late } = await run(program, args, {
    show: true,
    limitMs: limit,
    check: false,
    env: {
      CHROMIUM: chromium() ?? '',
      ...(process.stdout.isTTY ? { FORCE_COLOR: '1' } : { NO_COLOR: '1' }),
    },
  })
  const counted = count(tail)
  // A layer that failed without a failed test, or counts nothing, is one test itself.
  const ok = code === 0
  const passed = counted?.passed ?? (ok ? 1 : 0)
  const failed = Math.max(counted?.failed ?? 0, ok ? 0 : 1)
  return { ok, late, passed, failed, skipped: counted?.skipped ?? 0 }
}

// ---------------------------------------------------------------------------------------------

function rustTests() {
  const locked = process.env.CI ? ['--locked'] : []
  return which('cargo-nextest')
    ? ['cargo', 'nextest', 'run', '--workspace', '--no-fail-fast', ...locked]
    : ['cargo', 'test', '--workspace', '--no-fail-fast', ...locked]
}

function interopTests() {
  const target = ['--target-dir', at('target/interop')]
  return ['cargo', 'test', '--locked', '--manifest-path', at('tools/interop/Cargo.toml'), ...target]
}

function report(project) {
  return at('target/reports', `${project}.json`)
}

// eslint-disable-next-line no-control-regex
const plain = (text) => text.replace(/\x1b\[[0-9;]*m/g, '')

/** nextest's summary, or what the test binaries of `cargo test` add up to. */
function countCargo(tail) {
  const text = plain(tail)
  const summary = /Summary.*?tests? run:(.*)/.exec(text)?.[1]
  const number = (from, word) => Number(new RegExp(`(\\d+) ${word}`).exec(from)?.[1] ?? 0)
  if (summary !== undefined) {
    return {
      passed: number(summary, 'passed'),
      failed: number(summary, 'failed') + number(summary, 'timed out'),
      skipped: number(summary, 'skipped'),
    }
  }
  const results = [...text.matchAll(/test result: .*?(\d+) passed; (\d+) failed; (\d+) ignored/g)]
  if (results.length === 0) return undefined
  const sum = (i) => results.reduce((total, match) => total + Number(match[i]), 0)
  return { passed: sum(1), failed: sum(2), skipped: sum(3) }
}

function countVitest(path) {
  if (!existsSync(path)) return undefined
  const {
    numPassedTests: passed,
    numFailedTests: failed,
    numPendingTests: skipped,
  } = JSON.parse(readFileSync(path, 'utf8'))
  return { passed, failed, skipped }
}

function countLine(tail) {
  const match = /^(\d+) passed, (\d+) failed$/m.exec(plain(tail))
  return match ? { passed: Number(match[1]), failed: Number(match[2]) } : undefined
}

await main(import.meta, async (names) => {
  const unknown = names.filter((name) => !(name in LAYERS))
  if (unknown.length > 0)
    throw new Stop(`no layer ${unknown.join(', ')}: there are ${Object.keys(LAYERS).join(', ')}`)
  const layers = Object.entries(LAYERS).filter(
    ([name]) => names.length === 0 || names.includes(name),
  )
  const needs = new Set(layers.flatMap(([, { needs }]) => needs))
  const rows = []
  const timed = async (name, about, work) => {
    console.log(bold(`\n${name}`) + dim(`  ${about}`))
    const began = Date.now()
    const result = await work()
    rows.push({ name, about, took: Date.now() - began, ...result })
    return result
  }

  await timed('set-up', 'tools, packages', () => setup())
  await timed('build', 'module, bundles, programs', async () => {
    const module = needs.has('module') ? ['wasm', 'opt', 'bundle'] : []
    const native = needs.has('native') ? ['native'] : []
    await build({ steps: [...module, ...native], tests: true })
  })
  for (const [name, layer] of layers) {
    const result = await timed(name, layer.about, () => runLayer(name, layer))
    if (result.late)
      console.log(red(`${name} was ended: not finished after ${seconds(layer.limit)}`))
  }

  console.log()
  for (const { name, about, took, ok, passed, failed } of rows) {
    const counts = ok === undefined ? '' : `${passed} passed${failed ? `, ${failed} failed` : ''}`
    const mark = ok === false ? red('✗') : green('✓')
    console.log(
      `${mark} ${name.padEnd(10)}${seconds(took).padStart(9)}  ${counts.padEnd(22)}${dim(about)}`,
    )
  }
  const total = (key) => rows.reduce((sum, row) => sum + (row[key] ?? 0), 0)
  console.log(`  ${'together'.padEnd(10)}${seconds(total('took')).padStart(9)}\n`)
  console.log(
    `${total('passed')} passed, ${total('failed')} failed${total('skipped') ? `, ${total('skipped')} skipped` : ''}`,
  )
  if (rows.some(({ ok }) => ok === false)) process.exitCode = 1
})
