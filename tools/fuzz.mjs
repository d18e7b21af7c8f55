// `npm run fuzz -- [target]... [--seconds N] [--keep]`: feeds what reads peers' bytes with inputs that
// libFuzzer invents, guided by which code they reach. Two targets at a time; without names all, 60 seconds
// each. Ends with the line 'N passed, N failed'.
//
//   crates/*/src/fuzz.rs      the targets
//   crates/fuzz/corpus        one file for each target: inputs to begin with, base64, one a line. What once
//                             broke a target is one of them, and stays.
//   target/fuzz/<target>      what was found here; `--keep` puts the smallest set of it that reaches as much
//                             into crates/fuzz/corpus
//
// Coverage comes from LLVM's own pass, which every rustc has: no nightly, and no cargo-fuzz.

import { createHash } from 'node:crypto'
import {
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { Stop, at, bold, dim, green, main, red, run, seconds, step } from './lib.mjs'

const CORPUS = at('crates/fuzz/corpus')
/** Larger inputs than this find nothing more, and are slow. */
const INPUT_MAX = 4096
/** A corpus that is kept is cut to so many bytes: the whole repository is to stay small. */
const KEPT_BYTES = 24 * 1024
/** An input that takes longer is a finding. */
const INPUT_SECONDS = 10
/** Memory of one target, in MiB; more is a finding. */
const MEMORY = 1024

const corpusFile = (target) => join(CORPUS, `${target}.txt`)
const folder = (target, name) => at('target/fuzz', target, name)

/** libFuzzer's library, compiled once for each clone. */
async function libfuzzer(note) {
  const messages = await run(
    'cargo',
    [
      'build',
      '--locked',
      '--manifest-path',
      at('tools/libfuzzer/Cargo.toml'),
      '--message-format=json',
    ],
    {
      onLine: note,
      env: { CARGO_TARGET_DIR: at('target/libfuzzer'), CXXFLAGS: '-O1' },
    },
  )
  const built = json(messages.stdout).find(
    ({ reason, package_id }) =>
      reason === 'build-script-executed' && /libfuzzer-sys/.test(package_id),
  )
  if (!built) throw new Stop('libfuzzer-sys was built, and does not say where')
  return built.out_dir
}

const json = (text) =>
  text
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line))

/** The program with all targets. With `--workspace` dependencies have the features that `npm test` built. */
async function program(library, note) {
  const { stdout } = await run(
    'cargo',
    ['test', '--workspace', '--test', 'fuzz', '--no-run', '--message-format=json'],
    {
      onLine: note,
      env: { RUSTC_WORKSPACE_WRAPPER: at('tools/rustc-fuzz'), LIBFUZZER: library },
    },
  )
  const built = json(stdout).find(({ target, executable }) => target?.name === 'fuzz' && executable)
  return built.executable
}

/** Lays out what is kept as files, as libFuzzer wants it, next to what was found before. */
function unpack(target) {
  for (const name of ['kept', 'found', 'broken'])
    mkdirSync(folder(target, name), { recursive: true })
  rmSync(folder(target, 'kept'), { recursive: true })
  mkdirSync(folder(target, 'kept'))
  for (const line of kept(target)) {
    const input = Buffer.from(line, 'base64')
    writeFileSync(join(folder(target, 'kept'), name(input)), input)
  }
}

const kept = (target) =>
  existsSync(corpusFile(target))
    ? readFileSync(corpusFile(target), 'utf8').split('\n').slice(0, -1)
    : []
const name = (input) => createHash('sha1').update(input).digest('hex')
const inputs = (path) => readdirSync(path).map((name) => readFileSync(join(path, name)))

function libfuzzerArgs(target) {
  return [
    `-max_len=${INPUT_MAX}`,
    `-timeout=${INPUT_SECONDS}`,
    `-rss_limit_mb=${MEMORY}`,
    `-artifact_prefix=${folder(target, 'broken')}/`,
    '-use_value_profile=1',
    '-print_final_stats=1',
  ]
}

async function fuzz(program, target, duration) {
  unpack(target)
  const began = Date.now()
  const { code, tail } = await run(
    program,
    [
      ...libfuzzerArgs(target),
      `-max_total_time=${duration}`,
      folder(target, 'found'),
      folder(target, 'kept'),
    ],
    {
      check: false,
      limitMs: (duration + 60) * 1000,
      env: { FUZZ_TARGET: target, RUST_BACKTRACE: '1' },
    },
  )
  const number = (pattern) => pattern.exec(tail)?.[1] ?? '?'
  const executions = number(/stat::number_of_executed_units: (\d+)/)
  const coverage = number(/cov: (\d+)(?![^]*cov: )/)
  const features = number(/ft: (\d+)(?![^]*ft: )/)
  const figures = `${executions} inputs, ${coverage} edges, ${features} features`
  console.log(
    `${code === 0 ? green('  ✓') : red('  ✗')} ${target} ${dim(`${seconds(Date.now() - began)}, ${figures}`)}`,
  )
  if (code !== 0) {
    console.log(tail.split('\n').slice(-60).join('\n'))
    console.log(
      `What broke it is in target/fuzz/${target}/broken. \`npm run fuzz -- ${target} --keep\` keeps it for the tests.`,
    )
  }
  return code === 0
}

/** Writes the corpus anew: what once broke the target, and the fewest inputs that reach all that is reached. */
async function keep(program, target) {
  unpack(target)
  const least = folder(target, 'least')
  rmSync(least, { recursive: true, force: true })
  mkdirSync(least)
  await run(
    program,
    [
      ...libfuzzerArgs(target),
      '-merge=1',
      '-use_value_profile=0',
      least,
      folder(target, 'found'),
      folder(target, 'kept'),
    ],
    { env: { FUZZ_TARGET: target }, limitMs: 10 * 60_000 },
  )
  const lines = new Set(inputs(folder(target, 'broken')).map((input) => input.toString('base64')))
  let size = 0
  for (const input of inputs(least).toSorted((a, b) => a.length - b.length)) {
    const line = input.toString('base64')
    size += line.length + 1
    if (size > KEPT_BYTES) break
    lines.add(line)
  }
  mkdirSync(CORPUS, { recursive: true })
  writeFileSync(
    `${corpusFile(target)}.part`,
    [...lines]
      .toSorted()
      .map((line) => `${line}\n`)
      .join(''),
  )
  renameSync(`${corpusFile(target)}.part`, corpusFile(target))
  console.log(`  ${target}: ${lines.size} inputs kept, ${size} bytes`)
}

await main(import.meta, async (args) => {
  let duration = 60
  let keeping = false
  const names = []
  while (args.length > 0) {
    const arg = args.shift()
    if (arg === '--seconds' && Number(args[0]) > 0) duration = Number(args.shift())
    else if (arg === '--keep') keeping = true
    else if (arg.startsWith('-'))
      throw new Stop('usage: npm run fuzz -- [target]... [--seconds N] [--keep]')
    else names.push(arg)
  }
  const library = await step('libFuzzer', libfuzzer)
  const path = await step('targets', (note) => program(library, note))
  const { stdout } = await run(path, [])
  const all = stdout.trim().split('\n')
  const unknown = names.filter((name) => !all.includes(name))
  if (unknown.length > 0)
    throw new Stop(`no target ${unknown.join(', ')}: there are ${all.join(', ')}`)
  const queue = names.length > 0 ? names : all
  if (keeping) {
    for (const target of queue) await keep(path, target)
    return
  }
  console.log(bold(`${queue.length} targets, ${duration} s each`))
  let passed = 0
  let failed = 0
  const lane = async () => {
    for (let target = queue.shift(); target !== undefined; target = queue.shift())
      if (await fuzz(path, target, duration)) passed++
      else failed++
  }
  await Promise.all([lane(), lane()])
  console.log(`${passed} passed, ${failed} failed`)
  if (failed > 0) process.exitCode = 1
})
