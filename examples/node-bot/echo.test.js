// `node --test`: the bot among others, without a relay and without waiting. Time is the network's own.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Room, RoomTicket } from 'iroh-rooms'
import { TestNetwork } from 'iroh-rooms/testing'
import { echo } from './echo.js'

async function withBot(work) {
  const net = new TestNetwork({ delayMs: 20, loss: 0.1 })
  try {
    const bot = await enter(net, RoomTicket.generate(), 'Echo')
    const printed = []
    void echo(bot, (line) => printed.push(line))
    const ticket = await bot.ticket()
    await work({ net, bot, printed, guest: (name) => enter(net, ticket, name) })
  } finally {
    await net.close()
  }
}

async function enter(net, ticket, displayName) {
  const room = await Room.open(await net.spawn(), ticket, { displayName })
  await net.advance(2_000)
  return room
}

const heard = async (room) =>
  (await room.chat.history()).map(({ peer, text }) => `${peer.displayName}: ${text}`)

void test('greets a guest, and repeats what it says', () =>
  withBot(async ({ net, guest }) => {
    const ada = await guest('Ada')
    await ada.chat.send('one two three')
    await net.advance(2_000)
    assert.deepEqual(await heard(ada), [
      'Echo: Hello, Ada! I repeat what you say.',
      'Ada: one two three',
      'Echo: one two three',
    ])
  }))

void test('is quiet among others, until it is asked', () =>
  withBot(async ({ net, guest }) => {
    const [ada, bob] = [await guest('Ada'), await guest('Bob')]
    await ada.chat.send('hello Bob')
    await net.advance(1_000)
    await bob.chat.send('is Echo here?')
    await net.advance(2_000)
    assert.deepEqual((await heard(bob)).slice(-2), ['Bob: is Echo here?', 'Echo: is Echo here?'])
    assert.ok(!(await heard(bob)).includes('Echo: hello Bob'))
  }))

void test('notices a guest who vanishes, and greets again one who is back', () =>
  withBot(async ({ net, bot, printed, guest }) => {
    const ada = await guest('Ada')
    net.partition([bot.live], [ada.live])
    await net.advance(15_000)
    assert.deepEqual(printed, ['+ Ada', '- Ada (timeout)'])
    net.heal()
    await net.advance(15_000)
    assert.equal(printed.at(-1), '+ Ada')
    assert.equal(bot.peers.size, 1)
  }))
