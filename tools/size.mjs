// `npm run size`: what a visitor downloads, and whether it is within the budget of package.json.
//
// wasm     the module, as it is served
// worker   the Worker's script, self-contained
// entry    the public classes, which go into the application's own bundle
// inline   all of it in one script: the module is compressed already, and base64 makes it larger again
// testing  the network in memory, which no visitor downloads

import { existsSync, readFileSync } from 'node:fs'
import { brotliCompressSync, constants, gzipSync } from 'node:zlib'
import { Stop, at, green, main, red } from './lib.mjs'

/** KB is 1,000 bytes, the stricter reading. */
const kb = (bytes) => (bytes / 1000).toFixed(1)

const brotli = (data) =>
  brotliCompressSync(data, {
    params: {
      [constants.BROTLI_PARAM_QUALITY]: 11,
      [constants.BROTLI_PARAM_LGWIN]: 22,
      [constants.BROTLI_PARAM_SIZE_HINT]: data.length,
    },
  })

await main(import.meta, async () => {
  const { sizeBudget } = JSON.parse(readFileSync(at('package.json'), 'utf8'))
  const dist = (name) => at('dist', name)
  for (const name of [
    'core_bg.wasm',
    'worker.js',
    'index.js',
    'inline.js',
    'inline-core.js',
    'testing.js',
  ]) {
    if (!existsSync(dist(name)))
      throw new Stop(`dist/${name} is missing. Run\n  node tools/build.mjs`)
  }
  const parts = [
    ['wasm', readFileSync(dist('core_bg.wasm'))],
    ['worker', readFileSync(dist('worker.js'))],
    ['entry', readFileSync(dist('index.js'))],
    [
      'inline',
      Buffer.concat(['inline.js', 'inline-core.js'].map((name) => readFileSync(dist(name)))),
    ],
    ['testing', readFileSync(dist('testing.js'))],
  ]
  console.log(
    ['', 'raw', 'gzip', 'brotli', 'budget']
      .map((word, i) => (i ? word.padStart(10) : word.padEnd(8)))
      .join(''),
  )
  let over = 0
  for (const [name, data] of parts) {
    const packed = brotli(data)
    const budget = sizeBudget[name]
    const isOver = packed.length > budget * 1000
    if (isOver) over++
    const cells = [
      kb(data.length),
      kb(gzipSync(data, { level: 9 }).length),
      kb(packed.length),
      String(budget),
    ]
    console.log(
      name.padEnd(8) +
        cells.map((cell) => cell.padStart(10)).join('') +
        ' KB ' +
        (isOver ? red('over') : green('ok')),
    )
  }
  if (over > 0)
    throw new Stop(
      `${over} over budget: find out what grew before raising sizeBudget in package.json.`,
    )
})
