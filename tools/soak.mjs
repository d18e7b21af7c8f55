// `npm run soak [-- node|chromium] [--cycles 200] [--rooms 20] [--minutes 10] [--seed N]`: rooms opened
// and left again and again on the real core, and many at a time, with what they hold watched. The
// short form is part of `npm test`; here it is long, and what it saw is printed.

import { existsSync } from 'node:fs'
import { Stop, at, chromium, main, run } from './lib.mjs'

const USAGE =
  'usage: npm run soak [-- node|chromium] [--cycles N] [--rooms N] [--minutes N] [--seed N]'

await main(import.meta, async (args) => {
  const options = { cycles: 200, rooms: 20, minutes: 10, seed: Date.now() % 2 ** 31 }
  const projects = []
  while (args.length > 0) {
    const arg = args.shift()
    if (arg === 'node' || arg === 'chromium') projects.push(arg)
    else if (arg.startsWith('--') && arg.slice(2) in options && Number(args[0]) >= 0)
      options[arg.slice(2)] = Number(args.shift())
    else throw new Stop(USAGE)
  }
  if (!existsSync(at('dist/core_bg.wasm')))
    throw new Stop('There is no package yet. Run\n  npm run build')
  const { cycles, rooms, minutes, seed } = options
  for (const project of projects.length > 0 ? projects : ['node', 'chromium']) {
    console.log(`${project}: ${cycles} rooms, then ${rooms} for ${minutes} min, seed ${seed}`)
    await run(
      at('node_modules/.bin/vitest'),
      ['run', '--project', project, `ts/test/${project}/soak.test.ts`],
      {
        show: true,
        limitMs: (cycles * 10 + minutes * 90 + 300) * 1_000,
        env: {
          CHROMIUM: chromium() ?? '',
          SOAK_CYCLES: String(cycles),
          SOAK_ROOMS: String(rooms),
          SOAK_SECONDS: String(minutes * 60),
          SOAK_SEED: String(seed),
        },
      },
    )
  }
})
