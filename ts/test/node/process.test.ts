/** What a process of its own shows: that it ends. */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'

import { describe, expect, it } from 'vitest'

const run = promisify(execFile)
const here = (name: string): string =>
  JSON.stringify(new URL(`../../../target/ts-test/${name}`, import.meta.url).href)

/** Runs a program with the library; rejects if it has not ended by itself in 10 s. */
async function program(body: string): Promise<string> {
  const code = `
    import { Live, Room, RoomTicket } from ${here('index.js')}
    const spawn = () => Live.spawn({ worker: new URL(${here('fake-worker-node.js')}) })
    ${body}
    console.log('end of the program')`
  const args = ['--input-type=module', '--eval', code]
  const { stdout } = await run(process.execPath, args, { timeout: 10_000 })
  return stdout.trim()
}

const END = 'end of the program'

describe('a process', () => {
  it('is not kept by an import', async () => {
    expect(await program('')).toBe(END)
  })

  it('ends by itself after close', async () => {
    const body = `
      const live = await spawn()
      const room = await Room.open(live, RoomTicket.generate())
      room.on('peer-joined', () => undefined)
      room.events()
      await live.close()`
    expect(await program(body)).toBe(END)
  })

  it('ends with an open Live that was let go of', async () => {
    const body = `
      const live = await spawn()
      const room = await Room.open(live, RoomTicket.generate())
      room.events()
      live.unref()
      room.events()`
    expect(await program(body)).toBe(END)
  })

  it('ends after a start that failed', async () => {
    const body = `
      const worker = new URL(${here('fake-worker-node.js')})
      await Live.spawn({ worker, relay: 'http://unreachable.test' }).catch(({ code }) => console.log(code))`
    expect(await program(body)).toBe(`RELAY_UNREACHABLE\n${END}`)
  })
})
