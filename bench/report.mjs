// What was measured, as tables: beside what the others reach, and beside what was aimed at. Where a
// measure makes no sense or was not taken there is no figure.
import { FAILOVER, VOTERS } from './crowd.mjs'
import { READY, SIZES } from './measures.mjs'

const [SMALL, LARGE] = SIZES

const NAMES = {
  rooms: 'iroh-rooms',
  websocket: 'WebSocket',
  rtc: 'DataChannel',
  peerjs: 'PeerJS',
  trystero: 'Trystero',
  ywebrtc: 'y-webrtc',
}
/** Whose everything is measured. */
const COMPARED = ['rooms', 'websocket', 'rtc', 'peerjs', 'trystero']

/** What is shown, the part and the measure it is of, the quantile, and how many make the unit. */
const SIDES = [
  ['start to ready, ms', 'sides', 'start', 0.5],
  ['join to first answer, ms', 'sides', 'join', 0.5],
  ['round trip p50, ms', 'sides', 'trip', 0.5],
  ['round trip p95, ms', 'sides', 'trip', 0.95],
  ['round trip p99, ms', 'sides', 'trip', 0.99],
  ['frames of 1 KiB, MB/s', 'sides', `bulk ${SMALL}`, 0.5],
  ['frames of 64 KiB, MB/s', 'sides', `bulk ${LARGE}`, 0.5],
  ['memory of an idle tab, MB', 'sides', 'memory', 0.5, 1e6],
  ['of it WebAssembly, MB', 'sides', 'held', 0.5, 1e6],
  ['closed tab noticed, ms', 'gone', 'closed', 0.5],
  ['killed tab noticed, ms', 'gone', 'killed', 0.5],
]

const BOUNDARY = [
  ['an event, batched, µs', 'event', 0.5],
  ['a frame of 64 KiB to the page, µs', `frame in ${LARGE}`, 0.5],
  ['a frame of 64 KiB to the Worker, µs', `frame out ${LARGE}`, 0.5],
  ['a frame of 1 KiB to the page, µs', `frame in ${SMALL}`, 0.5],
  ['a frame of 1 KiB to the Worker, µs', `frame out ${SMALL}`, 0.5],
  ['a call and its answer, µs', 'call', 0.5],
]

const LEVERS = [
  ['start, ms', 'start'],
  ['join, ms', 'join'],
  ['join of a ready Live, ms', 'join', READY],
  ['round trip, ms', 'trip'],
  ['1 KiB, MB/s', `bulk ${SMALL}`],
  ['64 KiB, MB/s', `bulk ${LARGE}`],
]

const FANOUT = [
  ['session set up, ms', 'session', 0.5],
  ['first frame, ms', 'first', 0.5],
  ['from writer to reader p50, ms', 'latency', 0.5],
  ['from writer to reader p99, ms', 'latency', 0.99],
  ['frames of 1 KiB to all, MB/s', `bulk ${SMALL}`, 0.5],
  ['frames of 64 KiB to all, MB/s', `bulk ${LARGE}`, 0.5],
  ['processor for a MB in frames of 1 KiB, ms', `cpu ${SMALL}`, 0.5],
  ['processor for a MB in frames of 64 KiB, ms', `cpu ${LARGE}`, 0.5],
]

/** Rows are the rooms; columns the measure, the quantile, and how many make the unit. */
const GROWTH = [
  ['all see all, ms', 'seen', 0.5],
  ['connections of a peer', 'connections', 0.5],
  ['bytes/s of a peer at rest', 'bytes', 0.5],
  ['of it sessions', 'sessions', 0.5],
  ['processor of a peer at rest, %', 'cpu', 0.5],
]

const AGREEMENT = [
  ['join by id, ms', 'join', 0.5],
  ['round trip, ms', 'trip', 0.5],
  ['change p50, ms', 'commit', 0.5],
  ['p95', 'commit', 0.95],
  ['p99', 'commit', 0.99],
  ['of the doorman', 'commit of the doorman', 0.5],
  ['of a learner', 'commit of a learner', 0.5],
  ['changes a second', 'rate', 0.5],
  ['bytes/s of a member at rest', 'bytes', 0.5],
  ['processor, %', 'cpu', 0.5],
]

const FAILOVERS = [
  ['change p50, ms', 'change', 0.5],
  ['change p95, ms', 'change', 0.95],
  ['entry p50, ms', 'entry', 0.5],
  ['entry p95, ms', 'entry', 0.95],
]

/** The parts that take minutes, of which each row is told when it is there. */
const LONG = { growth: GROWTH, agreement: AGREEMENT, failover: FAILOVERS }

/** A row of one of these as a line, with what was measured of it. */
export function line(table, samples = {}) {
  const measured = LONG[table].filter(([, measure]) => samples[measure])
  const cells = measured.map(
    ([name, measure, q]) => `${name} ${figure(quantile(samples[measure], q))}`,
  )
  return cells.join('; ')
}

/** What is to be reached, from the figures of this run. */
function aims(at) {
  const sides = (measure, kind = 'rooms') => at('sides', kind, measure, 0.5)
  const ratio = (measure, kind) => sides(measure) / sides(measure, kind)
  const gone = (measure) => at('gone', 'rooms', measure, 0.5)
  return [
    ['join of a ready Live p50, ms', sides('join', 'ready'), 'at most', 300],
    ['round trip p50 / WebSocket', ratio('trip', 'websocket'), 'at most', 2.5],
    ['64 KiB / WebSocket', ratio(`bulk ${LARGE}`, 'websocket'), 'at least', 0.4],
    ['64 KiB / Trystero', ratio(`bulk ${LARGE}`, 'trystero'), 'at least', 1],
    ['1 KiB / WebSocket', ratio(`bulk ${SMALL}`, 'websocket'), 'at least', 0.5],
    ['an event across the boundary, µs', at('boundary', 'rooms', 'event', 0.5), 'at most', 6],
    ['closed tab noticed, ms', gone('closed'), 'at most', 500],
    ['killed tab noticed, ms', gone('killed'), 'at most', 12_000],
    ...agreementAims((...of) => at('agreement', ...of)),
  ]
}

function agreementAims(at) {
  const aims = []
  for (const [where, changes] of [
    ['native', 2000],
    ['tabs', 500],
  ]) {
    for (const voters of VOTERS) {
      const name = `${where}, ${voters}`
      const beyond = at(name, 'commit', 0.5) - 2 * at(name, 'trip', 0.5)
      aims.push(
        [`${name}: change p50 less two round trips, ms`, beyond, 'at most', 5],
        [`${name}: changes a second`, at(name, 'rate', 0.5), 'at least', changes],
        [`${name}: join by id, ms`, at(name, 'join', 0.5), 'at most', 500],
      )
    }
  }
  for (const voters of FAILOVER.filter((voters) => voters > 2)) {
    for (const measure of ['change', 'entry']) {
      for (const [q, limit] of [
        [0.5, 4000],
        [0.95, 6000],
      ])
        aims.push([
          `${voters} voters: kill to next ${measure} p${q * 100}, ms`,
          at(`${voters} voters`, measure, q),
          'at most',
          limit,
        ])
    }
  }
  return aims
}

/** Prints it all, and gives it as data. `found`: by part, side and measure, the samples. */
export function report(found, { noWebRtc, failures }) {
  const at = (part, side, measure, q) => quantile(found[part]?.[side]?.[measure], q)
  const tables = {}
  /** Rows and columns by their names. */
  const show = (title, rows, columns, cell) => {
    if (rows.length === 0) return
    const of = (row) => columns.map((column) => [name(column), cell(row, column)])
    tables[title] = Object.fromEntries(rows.map((row) => [name(row), Object.fromEntries(of(row))]))
    console.log(`\n${title}`)
    console.table(tables[title])
  }
  const name = (thing) => (Array.isArray(thing) ? thing[0] : thing)

  show(
    'Side by side',
    SIDES.filter(([, part]) => found[part]),
    COMPARED.map((kind) => [NAMES[kind], kind]),
    ([, part, measure, q, unit = 1], [, kind]) => figure(at(part, kind, measure, q) / unit),
  )
  if (noWebRtc) console.log(`Without WebRTC: ${noWebRtc}`)
  const ready = at('sides', 'ready', 'join', 0.5)
  if (ready !== undefined)
    console.log(`Join to first answer with a Live that is ready: ${figure(ready)} ms.`)
  const empty = at('sides', 'blank', 'memory', 0.5)
  if (empty !== undefined) console.log(`An empty page has ${figure(empty / 1e6)} MB.`)

  const marks = Object.keys(found.sides?.rooms ?? {}).filter((measure) =>
    measure.startsWith('mark '),
  )
  const when = (measure) => at('sides', 'rooms', measure, 0.5)
  show(
    'Where the join goes',
    marks.sort((a, b) => when(a) - when(b)).map((measure) => [measure.slice(5), measure]),
    ['ms after the call'],
    ([, measure]) => figure(when(measure)),
  )
  show('Between page and Worker', found.boundary ? BOUNDARY : [], ['p50'], ([, measure, q]) =>
    figure(at('boundary', 'rooms', measure, q)),
  )
  show(
    'One writer, many readers',
    found.fanout ? FANOUT : [],
    Object.keys(found.fanout ?? {}).map((count) => [
      count === '1' ? '1 reader' : `${count} readers`,
      count,
    ]),
    ([, measure, q], [, count]) => figure(at('fanout', count, measure, q)),
  )
  // A row that failed halfway has what came before.
  const named = (part, columns) =>
    Object.keys(found[part] ?? {}).filter((row) =>
      columns.some(([, measure]) => found[part][row][measure]),
    )
  const rows = (title, part, columns) =>
    show(title, named(part, columns), columns, (row, [, measure, q]) =>
      figure(at(part, row, measure, q)),
    )
  rows('A room that grows: its kind, and how many are in it', 'growth', GROWTH)
  rows('Agreement: where, and how many vote; with learners', 'agreement', AGREEMENT)
  rows('The doorman is killed: until the next', 'agreement', FAILOVERS)
  show(
    'Levers: all on, and one of them off',
    Object.keys(found.levers ?? {})
      .filter((lever) => !lever.endsWith(READY))
      .map((lever) => [lever === 'on' ? 'all on' : `without ${lever}`, lever]),
    LEVERS,
    ([, lever], [, measure, when = '']) => figure(at('levers', lever + when, measure, 0.5)),
  )
  show(
    'Aims',
    aims(at).filter(([, value]) => Number.isFinite(value)),
    ['figure', 'aim', 'reached'],
    ([, value, bound, limit], column) => {
      if (column === 'figure') return figure(value)
      if (column === 'aim') return `${bound} ${limit}`
      return (bound === 'at most' ? value <= limit : value >= limit) ? 'reached' : 'missed'
    },
  )
  if (failures.length > 0) console.log(`\nFailed:\n  ${failures.join('\n  ')}`)
  return { tables, spread: spread(found), failures }
}

/** Three digits; what never happened, and what was not measured. */
function figure(number) {
  if (number === Infinity) return 'never'
  return Number.isFinite(number) ? Number(number.toPrecision(3)) : '–'
}

function quantile(samples, q) {
  if (!samples || samples.length === 0) return undefined
  const sorted = samples.toSorted((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))]
}

/** How many samples each figure is of, with the least and the most of them. */
function spread(found) {
  const each = (object, work) =>
    Object.fromEntries(Object.entries(object).map(([key, value]) => [key, work(value)]))
  const of = (samples) => ({
    n: samples.length,
    min: figure(Math.min(...samples)),
    max: figure(Math.max(...samples)),
  })
  return each(found, (part) => each(part, (side) => each(side, of)))
}
