// The direction of dependencies between the crates, checked. Which way `ts/` may
// import is oxlint's to check: see .oxlintrc.json.

import { readFileSync } from 'node:fs'
import { relative } from 'node:path'
import { Stop, filesBelow, main, root, run } from './lib.mjs'

/** Who may depend on whom inside the workspace, development dependencies included. */
const MAY_USE = {
  'iroh-rooms-sorted': [],
  'iroh-rooms-moq': ['iroh-rooms-sorted'],
  'iroh-rooms-kv': ['iroh-rooms-sorted'],
  'iroh-rooms-consensus': ['iroh-rooms-sorted'],
  'iroh-rooms': ['iroh-rooms-moq', 'iroh-rooms-kv', 'iroh-rooms-consensus', 'iroh-rooms-sorted'],
  'iroh-rooms-bindings': ['iroh-rooms', 'iroh-rooms-sorted'],
  'iroh-rooms-cli': ['iroh-rooms'],
  'iroh-rooms-sim': ['iroh-rooms-consensus', 'iroh-rooms-kv'],
  'iroh-rooms-fuzz': ['iroh-rooms', 'iroh-rooms-moq', 'iroh-rooms-kv', 'iroh-rooms-consensus'],
}

/** Libraries that one room alone knows, so that replacing one changes one room. */
const BELONGS_TO = {
  'moq-net': 'moq',
  raft: 'consensus',
  'wasm-bindgen': 'bindings',
  'wasm-bindgen-futures': 'bindings',
  'serde-wasm-bindgen': 'bindings',
  'js-sys': 'bindings',
  'web-sys': 'bindings',
}

export async function arrows() {
  const { stdout } = await run('cargo', [
    'metadata',
    '--no-deps',
    '--format-version',
    '1',
    '--offline',
  ])
  const wrong = []
  for (const { name, dependencies, manifest_path } of JSON.parse(stdout).packages) {
    const room = /crates[\\/]([^\\/]+)[\\/]Cargo\.toml$/.exec(manifest_path)?.[1]
    const where = relative(root, manifest_path)
    const allowed = MAY_USE[name]
    if (allowed === undefined)
      wrong.push(`${where}: ${name} is new: say in tools/arrows.mjs what it may use`)
    for (const { name: used } of dependencies) {
      if (used in MAY_USE && allowed && !allowed.includes(used))
        wrong.push(`${where}: ${name} must not use ${used}`)
      const owner = BELONGS_TO[used]
      if (owner && owner !== room) wrong.push(`${where}: only crates/${owner} uses ${used}`)
    }
  }
  // A library is also named through what another crate re-exports.
  for (const file of filesBelow(['crates'], (path) => path.endsWith('.rs'))) {
    const path = relative(root, file)
    const room = path.split(/[\\/]/)[1]
    const lines = readFileSync(file, 'utf8').split('\n')
    for (const [library, owner] of Object.entries(BELONGS_TO)) {
      if (owner === room && !(library === 'raft' && !path.endsWith('src/raft.rs'))) continue
      const named = new RegExp(`(?<![\\w:])${library.replaceAll('-', '_')}::`)
      lines.forEach((line, i) => {
        const code = line.replace(/\/\/.*/, '').replace(/"[^"]*"/g, '')
        if (named.test(code))
          wrong.push(
            `${path}:${i + 1}: only crates/${owner}${library === 'raft' ? '/src/raft.rs' : ''} names ${library}`,
          )
      })
    }
  }
  if (wrong.length > 0)
    throw new Stop(`Dependencies that point the wrong way:\n  ${wrong.join('\n  ')}`)
}

await main(import.meta, arrows)
