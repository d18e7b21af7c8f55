import { describe, expect, inject, it } from 'vitest'

import { Live } from '../../src/index.js'
import { meetingSuite } from '../support/meeting-suite.js'

const relay = inject('relay')
const worker = (): URL => new URL('../../../dist/worker-node.js', import.meta.url)

describe.runIf(relay)('with the real core', () =>
  meetingSuite({ worker, relay: () => relay ?? '' }),
)

describe.runIf(relay)('the real core', () => {
  it('says after 10 s which relay does not answer', { timeout: 20_000 }, async () => {
    const spawning = Live.spawn({ worker: worker(), relay: 'http://127.0.0.1:9' })
    await expect(spawning).rejects.toMatchObject({
      code: 'RELAY_UNREACHABLE',
      message: expect.stringContaining('127.0.0.1:9'),
    })
  })
})
