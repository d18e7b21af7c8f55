/** The short form of the soak, and with `npm run soak` the long one. */
import { describe, inject, it } from 'vitest'

import { Live } from '../../src/index.js'
import { soakCycles, soakRooms } from './soak.js'

export interface Soak {
  /** The Worker's script with the real core. */
  readonly worker: () => URL
  readonly relay: string | undefined
}

export function soakSuite({ worker, relay = '' }: Soak): void {
  const options = inject('soak')
  const timeout = 60_000 + 10_000 * options.cycles + 2_000 * options.seconds
  const spawn = (): Promise<Live> => Live.spawn({ worker: worker(), relay })

  describe.runIf(relay)(`what is held is let go of (SOAK_SEED=${options.seed})`, () => {
    it('by rooms one after the other', { timeout }, () => soakCycles(spawn, options))
    it('by rooms at the same time', { timeout }, () => soakRooms(spawn, options))
  })
}
