/**
 * Before all tests: bundles the library and the Worker with the fake core for Node, which reads no
 * TypeScript, and starts the relay for the tests with the real core, if that is built.
 */
import { existsSync, rmSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

import { build } from 'rolldown'
import type { TestProject } from 'vitest/node'

import { PROGRAM, startRelay, startTrap } from './processes.js'
import type { SoakOptions } from './soak.js'

declare module 'vitest' {
  interface ProvidedContext {
    /** URL of the relay of this run; undefined unless program and package are built. */
    relay: string | undefined
    /** URL of a server for what a core must not be loaded from: `missing` and `page`. */
    trap: string
    /** How long `soak.ts` runs. */
    soak: SoakOptions
  }
}

const root: string = fileURLToPath(new URL('../../..', import.meta.url))

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  for (const [input, file] of [
    ['ts/test/support/fake-worker-node.ts', 'fake-worker-node.js'],
    ['ts/src/index.ts', 'index.js'],
  ] as const) {
    await build({
      input: `${root}${input}`,
      platform: 'node',
      external: [/^node:/],
      resolve: { conditionNames: ['node', 'import'] },
      output: { file: `${root}target/ts-test/${file}`, format: 'es' },
    })
  }
  const built = existsSync(PROGRAM) && existsSync(`${root}dist/core_bg.wasm`)
  const relay = built ? await startRelay() : undefined
  project.provide('relay', relay?.url)
  const trap = await startTrap()
  project.provide('trap', trap.url)
  const number = (name: string, otherwise: number): number => Number(process.env[name] ?? otherwise)
  project.provide('soak', {
    cycles: number('SOAK_CYCLES', 6),
    rooms: number('SOAK_ROOMS', 3),
    seconds: number('SOAK_SECONDS', 3),
    seed: number('SOAK_SEED', Date.now() % 2 ** 31),
    verbose: 'SOAK_CYCLES' in process.env,
  })
  return async () => {
    await relay?.stop()
    await trap.stop()
    // Where the tests of Node keep states.
    rmSync(`${root}.iroh-rooms`, { recursive: true, force: true })
  }
}
