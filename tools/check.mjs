// `npm run check`: everything that can be said about the code without running it. All of it is
// checked, also after a first failure, so that one run tells all there is to mend.
// `--fix` formats, and lets the linter mend what it can.

import { existsSync, readdirSync } from 'node:fs'
import { arrows } from './arrows.mjs'
import { Stop, at, main, run, step } from './lib.mjs'

const WASM = ['--target', 'wasm32-unknown-unknown']
const STRICT = ['--', '-D', 'warnings']

export async function check({ fix = false } = {}) {
  const cargo =
    (...args) =>
    (note) =>
      run('cargo', args, { onLine: note })
  const npm =
    (name, ...args) =>
    (note) =>
      run(at('node_modules/.bin', name), args, { onLine: note })
  const rust = [
    ['arrows', arrows],
    ['cargo fmt', cargo('fmt', '--all', ...(fix ? [] : ['--check']))],
    // A workspace of its own.
    [
      'cargo fmt tools/interop',
      cargo('fmt', '--manifest-path', at('tools/interop/Cargo.toml'), ...(fix ? [] : ['--check'])),
    ],
    ['clippy', cargo('clippy', '--workspace', '--all-targets', ...STRICT)],
    // What only the browser compiles. There, what crosses threads natively need not be Send.
    [
      'clippy for wasm32',
      cargo(
        'clippy',
        '-p',
        'iroh-rooms-bindings',
        '-p',
        'iroh-rooms-consensus',
        ...WASM,
        ...STRICT,
        '-A',
        'clippy::arc_with_non_send_sync',
      ),
    ],
  ]
  const typescript = [
    ['oxfmt', npm('oxfmt', ...(fix ? [] : ['--check']), '.')],
    ['oxlint', npm('oxlint', ...(fix ? ['--fix'] : []), '--deny-warnings', '.')],
    ['tsc', npm('tsc', '--noEmit', '-p', at('tsconfig.json'))],
    ...examples().map((name) => [
      `tsc examples/${name}`,
      npm('tsc', '--noEmit', '-p', at('examples', name)),
    ]),
  ]
  const failed = []
  const lane = async (list) => {
    for (const [name, work] of list) await step(name, work).catch((error) => failed.push(error))
  }
  await Promise.all([lane(rust), lane(typescript)])
  const bug = failed.find((error) => !(error instanceof Stop))
  if (bug) throw bug
  if (failed.length > 0) throw new Stop(failed.map((error) => error.message).join('\n\n'))
}

const examples = () =>
  readdirSync(at('examples')).filter((name) => existsSync(at('examples', name, 'tsconfig.json')))

await main(import.meta, (args) => check({ fix: args.includes('--fix') }))
