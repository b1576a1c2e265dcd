/**
 * Frames of smux version 1, the multiplexing that amazon-ssm-agent speaks inside a forwarding
 * session (xtaci/smux, frame.go): an 8-byte little-endian header, then data for PSH only.
 *
 * The reader buffers at most one partial header: data is passed on as it arrives, so a frame's
 * declared length never makes us hold memory.
 */
import { BridgeError } from '../errors.ts';

export const SMUX_VERSION = 1;
export const SMUX_HEADER_BYTES = 8;
/** What the peer's default configuration accepts as the data of one frame (smux mux.go). */
export const SMUX_MAX_SENT_DATA = 32_768;

export const smuxCommand = { syn: 0, fin: 1, psh: 2, nop: 3 } as const;
export type SmuxCommand = (typeof smuxCommand)[keyof typeof smuxCommand];

export function writeSmuxHeader(
  target: Uint8Array,
  offset: number,
  command: SmuxCommand,
  length: number,
  streamId: number,
): void {
  const view = new DataView(target.buffer, target.byteOffset, target.byteLength);
  view.setUint8(offset, SMUX_VERSION);
  view.setUint8(offset + 1, command);
  view.setUint16(offset + 2, length, true);
  view.setUint32(offset + 4, streamId, true);
}

export type SmuxEvent =
  | { readonly kind: 'syn' | 'fin' | 'nop'; readonly streamId: number }
  /** A piece of a PSH frame; a view of what was fed. */
  | { readonly kind: 'data'; readonly streamId: number; readonly bytes: Uint8Array }
  /** The last event there is: where the next frame would begin is unknown. */
  | { readonly kind: 'malformed'; readonly error: BridgeError };

/** Cuts the peer's byte stream into events. It must not be fed after `malformed`. */
export class SmuxReader {
  readonly #header = new Uint8Array(SMUX_HEADER_BYTES);
  readonly #view = new DataView(this.#header.buffer);
  #headerBytes = 0;
  #dataLeft = 0;

  feed(input: Uint8Array): SmuxEvent[] {
    const events: SmuxEvent[] = [];
    let offset = 0;
    while (offset < input.length) {
      if (this.#dataLeft > 0) {
        const end = Math.min(input.length, offset + this.#dataLeft);
        const bytes = input.subarray(offset, end);
        this.#dataLeft -= bytes.length;
        events.push({ kind: 'data', streamId: this.#view.getUint32(4, true), bytes });
        offset = end;
        continue;
      }
      const taken = Math.min(input.length - offset, SMUX_HEADER_BYTES - this.#headerBytes);
      this.#header.set(input.subarray(offset, offset + taken), this.#headerBytes);
      this.#headerBytes += taken;
      offset += taken;
      if (this.#headerBytes < SMUX_HEADER_BYTES) break;
      this.#headerBytes = 0;
      const event = this.#startFrame();
      if (event !== undefined) events.push(event);
      if (event?.kind === 'malformed') break;
    }
    return events;
  }

  #startFrame(): SmuxEvent | undefined {
    const version = this.#view.getUint8(0);
    const command = this.#view.getUint8(1);
    const length = this.#view.getUint16(2, true);
    const streamId = this.#view.getUint32(4, true);
    if (version !== SMUX_VERSION) {
      return malformed(`version ${version} where ${SMUX_VERSION} was expected`);
    }
    if (command === smuxCommand.psh) {
      this.#dataLeft = length;
      return undefined;
    }
    const kind = bareCommands[command];
    if (kind === undefined) return malformed(`unknown command ${command}`);
    // The peer's own implementation would take such data for the next header.
    if (length !== 0) return malformed(`${length} bytes of data in a ${kind} frame`);
    return { kind, streamId };
  }
}

const bareCommands: readonly ('syn' | 'fin' | 'nop' | undefined)[] = [
  'syn',
  'fin',
  undefined,
  'nop',
];

function malformed(detail: string): SmuxEvent {
  const message = `the agent's multiplexed stream is broken: ${detail}`;
  return { kind: 'malformed', error: new BridgeError('protocol.malformed', message) };
}
