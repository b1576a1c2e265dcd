/**
 * Finds the moment at which a client has accepted the server's host key: the end of its own
 * SSH_MSG_NEWKEYS. Until then the client's stream is plain (RFC 4253, sections 4.2 and 6: an
 * identification line, then packets without a MAC), so the moment can be seen from outside.
 * The gate only counts; it keeps no bytes, and costs a step per packet whatever the chunks are.
 */

/** RFC 4253, section 6.1: what every implementation must accept; OpenSSH's first packets are far smaller. */
const MAX_PACKET_LENGTH = 35_000;
/** Sixteen bytes is the least a packet may have, its length field of four included. */
const MIN_PACKET_LENGTH = 12;
/** RFC 4253, section 4.2, with CR LF. */
const MAX_IDENTIFICATION_LENGTH = 255;
const SSH_MSG_NEWKEYS = 21;
const LINE_FEED = 10;
const IDENTIFICATION = new TextEncoder().encode('SSH-2.0-');

/**
 * plain: before the end of NEWKEYS. holding: NEWKEYS has gone, the rest waits for `release`.
 * open: everything goes. A stream that is not SSH opens the gate by itself.
 */
export type GateState = 'plain' | 'holding' | 'open';

export class NewkeysGate {
  #state: GateState = 'plain';
  #inIdentification = true;
  #identificationLength = 0;
  /** Length, padding length and type of the current packet, as far as they have come. */
  readonly #header = new Uint8Array(6);
  #headerLength = 0;
  /** Bytes of the current packet still to come after its header. */
  #bodyLeft = 0;

  get state(): GateState {
    return this.#state;
  }

  /** Takes the stream's next bytes and says how many of them may go now. The rest is fed after `release`. */
  feed(bytes: Uint8Array): number {
    let offset = 0;
    while (this.#state === 'plain' && offset < bytes.length) {
      offset = this.#inIdentification
        ? this.#readIdentification(bytes, offset)
        : this.#readPacket(bytes, offset);
    }
    return this.#state === 'open' ? bytes.length : offset;
  }

  /** Lets everything pass from now on. */
  release(): void {
    this.#state = 'open';
  }

  #readIdentification(bytes: Uint8Array, start: number): number {
    for (let offset = start; offset < bytes.length; offset++) {
      const at = this.#identificationLength++;
      const isExpected = at >= IDENTIFICATION.length || bytes[offset] === IDENTIFICATION[at];
      if (!isExpected || at >= MAX_IDENTIFICATION_LENGTH) {
        this.#state = 'open';
        return offset;
      }
      if (bytes[offset] === LINE_FEED) {
        this.#inIdentification = false;
        return offset + 1;
      }
    }
    return bytes.length;
  }

  #readPacket(bytes: Uint8Array, start: number): number {
    let offset = start;
    while (this.#headerLength < this.#header.length) {
      const byte = bytes[offset];
      if (byte === undefined) return offset;
      this.#header[this.#headerLength++] = byte;
      offset += 1;
      if (this.#headerLength === 4) {
        const length = new DataView(this.#header.buffer).getUint32(0);
        if (length < MIN_PACKET_LENGTH || length > MAX_PACKET_LENGTH) {
          this.#state = 'open';
          return offset;
        }
        this.#bodyLeft = length - 2;
      }
    }
    const step = Math.min(this.#bodyLeft, bytes.length - offset);
    this.#bodyLeft -= step;
    if (this.#bodyLeft === 0) {
      if (this.#header[5] === SSH_MSG_NEWKEYS) this.#state = 'holding';
      this.#headerLength = 0;
    }
    return offset + step;
  }
}
