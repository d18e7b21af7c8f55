/**
 * The one error class of this library.
 *
 * It is also what the Worker speaks when something fails, so it depends on nothing else.
 */

/** What `details` holds, for the codes that have any. */
export interface RoomsErrorDetails {
  /** Something is larger than it may be. `limit` is in bytes, or in items where the message says so. */
  TOO_LARGE: { readonly limit: number }
  /** The session to the peer ended: its close code and the reason the other side gave. */
  SESSION_CLOSED: { readonly code: number; readonly reason: string }
  /** The track ended with this application code. */
  TRACK_CLOSED: { readonly code: number }
  /** The reader was too slow: so many items are lost to it. */
  LAGGED: { readonly missed: number }
  /** Why the doorman does not let this participant in, in the application's or the door's words. */
  REFUSED: { readonly reason: string }
  /** Why the change was refused: what `validate` said, or what is wrong with it. */
  UPDATE_REJECTED: { readonly reason: string }
  /** The browser or runtime lacks this feature. */
  UNSUPPORTED_RUNTIME: { readonly feature: string }
}

/**
 * The stable codes. Messages may change, codes do not.
 *
 * - `CLOSED`: the object, its room or its `Live` is closed.
 * - `TIMEOUT`: it took longer than its limit.
 * - `WORKER_START`: the Worker did not start; the message names the likely causes.
 * - `WORKER_CRASHED`: the Worker ended by itself. Its keys and sessions are gone: spawn a new `Live`.
 * - `UNSUPPORTED_RUNTIME`: a feature of the platform is missing, named in `details.feature`.
 * - `RELAY_UNREACHABLE`: no relay answered.
 * - `CONNECT_FAILED`: the peer could not be dialled.
 * - `PROTOCOL`: the other side broke the protocol.
 * - `WRITE_FAILED`: a write was not taken.
 * - `INVALID_TICKET`, `INVALID_ARGUMENT`: the caller's input is wrong; the message says how.
 * - `TOO_LARGE`: over the limit in `details.limit`.
 * - `NOT_ANNOUNCED`: nobody announces a broadcast of that name.
 * - `SESSION_CLOSED`, `TRACK_CLOSED`: ended by the other side, with its code in `details`.
 * - `LAGGED`: the reader was too slow and lost items.
 * - `ROOM_EXISTS`: somebody answers under the id of the room that was to be created.
 * - `ROOM_NOT_FOUND`: nobody answered for the room within `joinTimeoutMs`.
 * - `REFUSED`: the doorman does not let this participant in, or this is not this participant's to do.
 * - `PARTICIPANT_ID_TAKEN`: somebody else in the room has that participant id.
 * - `NO_QUORUM`: the room is read-only: too few of its voters are reachable.
 * - `UPDATE_REJECTED`: the change was refused, for good, at everybody.
 * - `UPDATE_UNKNOWN`: whether the change was made is not known; it may yet be made.
 * - `INTERNAL`: a bug here.
 */
export type RoomsErrorCode =
  | 'CLOSED'
  | 'TIMEOUT'
  | 'WORKER_START'
  | 'WORKER_CRASHED'
  | 'UNSUPPORTED_RUNTIME'
  | 'RELAY_UNREACHABLE'
  | 'CONNECT_FAILED'
  | 'PROTOCOL'
  | 'WRITE_FAILED'
  | 'INVALID_TICKET'
  | 'INVALID_ARGUMENT'
  | 'TOO_LARGE'
  | 'NOT_ANNOUNCED'
  | 'SESSION_CLOSED'
  | 'TRACK_CLOSED'
  | 'LAGGED'
  | 'ROOM_EXISTS'
  | 'ROOM_NOT_FOUND'
  | 'REFUSED'
  | 'PARTICIPANT_ID_TAKEN'
  | 'NO_QUORUM'
  | 'UPDATE_REJECTED'
  | 'UPDATE_UNKNOWN'
  | 'INTERNAL'

/** The type of `details` for a code; `undefined` for codes without any. */
export type DetailsOf<C extends RoomsErrorCode> = C extends keyof RoomsErrorDetails
  ? RoomsErrorDetails[C]
  : undefined

/** An error as plain data: what crosses the Worker boundary. */
export interface ErrorData {
  /** A {@link RoomsErrorCode}. */
  readonly code: string
  /** For people: what happened, to whom, and what to do. */
  readonly message: string
  /** See {@link RoomsErrorDetails}. */
  readonly details?: unknown
  /** What caused it, for the log. */
  readonly cause?: string
}

const CODES: ReadonlySet<string> = new Set<RoomsErrorCode>([
  'CLOSED',
  'TIMEOUT',
  'WORKER_START',
  'WORKER_CRASHED',
  'UNSUPPORTED_RUNTIME',
  'RELAY_UNREACHABLE',
  'CONNECT_FAILED',
  'PROTOCOL',
  'WRITE_FAILED',
  'INVALID_TICKET',
  'INVALID_ARGUMENT',
  'TOO_LARGE',
  'NOT_ANNOUNCED',
  'SESSION_CLOSED',
  'TRACK_CLOSED',
  'LAGGED',
  'ROOM_EXISTS',
  'ROOM_NOT_FOUND',
  'REFUSED',
  'PARTICIPANT_ID_TAKEN',
  'NO_QUORUM',
  'UPDATE_REJECTED',
  'UPDATE_UNKNOWN',
  'INTERNAL',
])

// A registered symbol rather than `instanceof`: two copies of the library in one page recognise
// each other's errors.
const BRAND = Symbol.for('iroh-rooms.error')

/**
 * Every error this library makes. Aborted calls are the exception: they reject with the signal's
 * own `reason`.
 *
 * @example
 * try {
 *   await session.subscribe('camera')
 * } catch (error) {
 *   if (RoomsError.is(error, 'SESSION_CLOSED')) console.log(error.details.reason)
 *   else throw error
 * }
 */
export class RoomsError<C extends RoomsErrorCode = RoomsErrorCode> extends Error {
  /** The stable code. */
  readonly code: C
  /** More about it, for the codes that have any: see {@link RoomsErrorDetails}. */
  readonly details: DetailsOf<C>

  /**
   * @param code - the stable code
   * @param message - what happened, to whom, and what to do
   * @param options - `details` as {@link RoomsErrorDetails} says for the code; `cause` as in `Error`
   */
  constructor(code: C, message: string, options: { details?: DetailsOf<C>; cause?: unknown } = {}) {
    super(message, 'cause' in options ? { cause: options.cause } : undefined)
    this.name = 'RoomsError'
    this.code = code
    this.details = options.details as DetailsOf<C>
    Object.defineProperty(this, BRAND, { value: true })
  }

  /**
   * Whether a value is an error of this library and, with `code`, of that code. Narrows the type,
   * including `details`.
   */
  static is<C extends RoomsErrorCode = RoomsErrorCode>(
    value: unknown,
    code?: C,
  ): value is RoomsError<C> {
    return (
      typeof value === 'object' &&
      value !== null &&
      BRAND in value &&
      (code === undefined || ('code' in value && value.code === code))
    )
  }

  /** @internal Makes an error of what came over the boundary, whatever it is. */
  static from(wire: unknown): RoomsError {
    const data = isErrorData(wire) ? wire : RoomsError.toData(wire)
    const known = CODES.has(data.code)
    const options = data.cause === undefined ? {} : { cause: data.cause }
    return new RoomsError(
      known ? (data.code as RoomsErrorCode) : 'INTERNAL',
      known ? data.message : `${data.message} (${data.code})`,
      { ...options, details: data.details as DetailsOf<RoomsErrorCode> },
    )
  }

  /** @internal Makes plain data of anything that was thrown. */
  static toData(thrown: unknown): ErrorData {
    if (RoomsError.is(thrown)) {
      const { code, message, details, cause } = thrown
      return {
        code,
        message,
        ...(details === undefined ? {} : { details }),
        ...(cause === undefined
          ? {}
          : { cause: cause instanceof Error ? (cause.stack ?? cause.message) : describe(cause) }),
      }
    }
    if (isErrorData(thrown)) return thrown
    if (thrown instanceof Error) {
      return { code: 'INTERNAL', message: thrown.message, cause: thrown.stack ?? String(thrown) }
    }
    return { code: 'INTERNAL', message: String(thrown) }
  }
}

function describe(value: unknown): string {
  return typeof value === 'string' ? value : (JSON.stringify(value) ?? typeof value)
}

function isErrorData(value: unknown): value is ErrorData {
  return (
    typeof value === 'object' &&
    value !== null &&
    !(value instanceof Error) &&
    typeof (value as ErrorData).code === 'string' &&
    typeof (value as ErrorData).message === 'string'
  )
}
