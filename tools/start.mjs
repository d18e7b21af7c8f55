// `npm start`: from a fresh clone to a room in the browser. Sets up, builds, starts a relay, a bot that
// keeps the room open, the demo page and the game, all on the loopback, and prints how to join. Ctrl-C
// ends everything.
// `--profile dev` builds the module without optimising: quicker after a change in Rust.

import { basename } from 'node:path'
import { build } from './build.mjs'
import {
  PROGRAM,
  Stop,
  at,
  bold,
  dim,
  freePort,
  main,
  root,
  run,
  seconds,
  startService,
  step,
} from './lib.mjs'
import { setup } from './setup.mjs'

const RELAY_PORT = 3340
const PAGE_PORT = 5173
const GAME_PORT = 5174

await main(import.meta, async (args) => {
  const began = Date.now()
  const profile = args.includes('dev') || args.includes('--profile=dev') ? 'dev' : undefined
  await step('set-up', () => setup({ needsBrowser: false }))
  await step('build', () => build({ profile }))

  const relay = await step('relay', async () =>
    startService(PROGRAM, ['relay', '--bind', `127.0.0.1:${await freePort(RELAY_PORT)}`, '--json']),
  )
  const { url } = relay.ready
  const { stdout } = await run(PROGRAM, ['ticket', 'new', '--relay', url, '--json'])
  // Somebody has to be there whom the ticket can name: newcomers find the others through the bot.
  const bot = await step('bot', () =>
    startService(process.execPath, [at('examples/node-bot/bot.js'), JSON.parse(stdout).ticket], {
      pick: (line) => /^join with (\S+)/.exec(line)?.[1],
    }),
  )
  const ticket = bot.ready
  // For a room that somebody opens without a ticket.
  process.env.VITE_RELAY = url
  const game = await step('game', () => servePage(at('examples/game'), GAME_PORT))
  // The room's page leads to it.
  process.env.VITE_GAME = game
  const page = await step('page', () => servePage(at('examples/room'), PAGE_PORT))
  console.log(`
${bold('A room is ready')} ${dim(`(${seconds(Date.now() - began)})`)}

  in a browser    ${page}#room=${ticket}
  in a terminal   target/debug/${basename(PROGRAM)} join ${ticket} --name you
  the game        ${game}
  the relay       ${url}

Open the link in two tabs. A bot is in the room already, for company. Ctrl-C ends everything.
`)
  const [name, { code }] = await Promise.race([
    relay.child.ended.then((end) => ['relay', end]),
    bot.child.ended.then((end) => ['bot', end]),
  ])
  throw new Stop(
    `The ${name} ended by itself with ${code}.\n${name === 'bot' ? bot.said() : relay.said()}`,
  )
})

/** Serves an example with Vite and returns its address, with a slash at the end. */
async function servePage(folder, port) {
  const { createServer } = await import('vite')
  const server = await createServer({
    root: folder,
    logLevel: 'warn',
    clearScreen: false,
    // The examples use the package of this very clone, which lies above their folders.
    server: {
      host: '127.0.0.1',
      port: await freePort(port),
      strictPort: true,
      fs: { allow: [root] },
    },
  })
  await server.listen()
  return server.resolvedUrls.local[0]
}
