//! The TypeScript types that the generated declarations name, and conversions to them.

use serde::Serialize;
use wasm_bindgen::prelude::*;

use crate::error::Failure;

#[wasm_bindgen(typescript_custom_section)]
const TYPES: &str = r#"
import type {
  ChatMessage, CoreStats, Diagnosis, EndpointAddr, Peer, RoomStats, SessionStats, Status,
} from '../../ts/src/wire.js';
export interface Batch { items: unknown[] | string; count: number; done: boolean }
export interface CoreOptions {
  relays: 'n0' | string[];
  secretKey?: Uint8Array;
  moqAccept: 'all' | 'manual';
  maxConnections?: number;
  tuning?: { cipher?: boolean; acks?: number; batching?: boolean; early?: boolean; warm?: boolean };
}
export interface RoomOptions {
  displayName?: string;
  presence?: string;
  autoSubscribe: boolean;
  compat?: 'iroh-live';
}
export interface StateRoomOptions extends RoomOptions {
  participantId: string;
  initialState?: string;
  reducer: boolean;
  validate: boolean;
  admit: boolean;
  approval: 'guard' | 'majority';
  recovery: 'auto' | 'manual' | 'never';
  voters: number;
  moderators?: string[];
  proof?: Uint8Array;
  app?: Uint8Array;
  restore?: Uint8Array;
  priority: number;
  joinTimeoutMs: number;
}
export interface Consensus {
  status: 'active' | 'degraded' | 'read-only' | 'recovering' | 'forked';
  doorman?: string;
  isDoorman: boolean;
  epoch: string;
  epochNumber: number;
  term: number;
  index: number;
  voters: string[];
  learners: string[];
}
export interface Participant { participantId: string; id: string; voter: boolean; moderator: boolean }
export interface TrackOptions { priority: number; maxAgeMs: number }
export interface ReadOptions { priority: number; maxAgeMs: number; start?: number; ordered: boolean }
export interface SessionInfo { remoteId: string; version: string }
export interface SessionEnd { code: number; reason: string }
"#;

/// A serializable value as a plain object.
pub fn to_js(value: &impl Serialize) -> Result<JsValue, Failure> {
    let serializer = serde_wasm_bindgen::Serializer::json_compatible();
    value
        .serialize(&serializer)
        .map_err(|error| Failure::new("INTERNAL", &error.to_string()))
}
