// The servers of what is compared with, in a process of their own: `node bench/servers.mjs` prints
// their addresses as one line of JSON. All on the loopback.
//
//   site       the pages; isolated from other origins, which gives them finer clocks
//   websocket  forwards what a client says to the others of its path, and tells them when it is gone
//   nostr      the part of a Nostr relay that Trystero needs: EVENT to whoever asked for it by REQ
//   peerjs     PeerServer

import { once } from 'node:events'
import { createReadStream, statSync } from 'node:fs'
import { createServer } from 'node:http'
import { extname, join, normalize } from 'node:path'
import { PeerServer } from 'peer'
import { WebSocketServer } from 'ws'

const ROOT = join(import.meta.dirname, '..')
const HOST = '127.0.0.1'
const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.wasm': 'application/wasm' }

async function site() {
  const server = createServer((request, response) => {
    const path = join(ROOT, normalize(new URL(request.url, 'http://x').pathname))
    if (!statSync(path, { throwIfNoEntry: false })?.isFile()) return response.writeHead(404).end()
    response.writeHead(200, {
      'content-type': TYPES[extname(path)] ?? 'application/octet-stream',
      'cross-origin-opener-policy': 'same-origin',
      'cross-origin-embedder-policy': 'require-corp',
    })
    createReadStream(path).pipe(response)
  })
  server.listen(0, HOST)
  await once(server, 'listening')
  return `http://${HOST}:${server.address().port}`
}

async function webSocketServer(serve) {
  const server = new WebSocketServer({ host: HOST, port: 0, perMessageDeflate: false })
  await once(server, 'listening')
  server.on('connection', serve)
  return `ws://${HOST}:${server.address().port}`
}

function websocket() {
  const rooms = new Map()
  return webSocketServer((socket, { url }) => {
    const room = rooms.get(url) ?? new Set()
    rooms.set(url, room.add(socket))
    const others = () => [...room].filter((other) => other !== socket)
    socket.on('message', (data, binary) => {
      for (const other of others()) other.send(data, { binary })
    })
    socket.on('close', () => {
      for (const other of others()) other.send('gone')
      room.delete(socket)
      if (room.size === 0) rooms.delete(url)
    })
  })
}

function nostr() {
  /** By socket: the filters of each subscription, which ask for kinds and for values of the tag x. */
  const clients = new Map()
  const wants = ({ kinds, '#x': topics }, { kind, tags }) =>
    kinds.includes(kind) && tags.some(([name, value]) => name === 'x' && topics.includes(value))
  return webSocketServer((socket) => {
    const subscriptions = new Map()
    clients.set(socket, subscriptions)
    socket.on('close', () => clients.delete(socket))
    socket.on('message', (text) => {
      const [type, first, ...rest] = JSON.parse(text)
      if (type === 'REQ') {
        subscriptions.set(first, rest)
        socket.send(JSON.stringify(['EOSE', first]))
      } else if (type === 'CLOSE') {
        subscriptions.delete(first)
      } else if (type === 'EVENT') {
        socket.send(JSON.stringify(['OK', first.id, true, '']))
        for (const [client, asked] of clients) {
          for (const [id, filters] of asked) {
            if (filters.some((filter) => wants(filter, first)))
              client.send(JSON.stringify(['EVENT', id, first]))
          }
        }
      }
    })
  })
}

async function peerjs() {
  const http = await new Promise((resolve) => {
    PeerServer({ host: HOST, port: 0, path: '/' }, resolve)
  })
  return `http://${HOST}:${http.address().port}`
}

const addresses = {
  type: 'ready',
  site: await site(),
  websocket: await websocket(),
  nostr: await nostr(),
  peerjs: await peerjs(),
}
console.log(JSON.stringify(addresses))
