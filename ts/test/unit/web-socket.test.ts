import { once } from 'node:events'
import { type AddressInfo, createServer } from 'node:net'

import * as ws from 'ws'
import { expect, it } from 'vitest'

import { likeBrowsers } from '../../worker/web-socket.js'

it('a WebSocket that is closed before it is open throws at nobody', async () => {
  const WebSocket = likeBrowsers(ws)
  // Takes the connection, and never answers.
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const socket = new WebSocket(`ws://127.0.0.1:${port}`)
  socket.close()
  await new Promise((resolve) => socket.once('close', resolve))
  expect(socket.readyState).toBe(socket.CLOSED)
  server.close()
})
