/** A naive smux peer: whole frames from whole buffers, as the format's description reads. */
export interface OracleFrame {
  readonly command: number;
  readonly streamId: number;
  readonly data: Buffer;
}

export function parseFrames(bytes: Buffer): { frames: OracleFrame[]; rest: Buffer } {
  const frames: OracleFrame[] = [];
  let rest = bytes;
  while (rest.length >= 8) {
    if (rest[0] !== 1) throw new Error('version');
    const length = rest.readUInt16LE(2);
    if (rest.length < 8 + length) break;
    frames.push({
      command: rest.readUInt8(1),
      streamId: rest.readUInt32LE(4),
      data: rest.subarray(8, 8 + length),
    });
    rest = rest.subarray(8 + length);
  }
  return { frames, rest };
}

export function frame(
  command: number,
  streamId: number,
  data: Uint8Array = Buffer.alloc(0),
): Buffer {
  const header = Buffer.alloc(8);
  header[0] = 1;
  header[1] = command;
  header.writeUInt16LE(data.length, 2);
  header.writeUInt32LE(streamId, 4);
  return Buffer.concat([header, data]);
}

export const SYN = 0;
export const FIN = 1;
export const PSH = 2;
export const NOP = 3;

/** What each stream carried, and the order of its SYN, data and FIN as one letter each. */
export function summarise(
  frames: readonly OracleFrame[],
): Map<number, { shape: string; data: Buffer }> {
  const streams = new Map<number, { shape: string; data: Buffer }>();
  for (const { command, streamId, data } of frames) {
    if (command === NOP) continue;
    const known = streams.get(streamId) ?? { shape: '', data: Buffer.alloc(0) };
    const letter = 'SFD'[command] ?? '?';
    streams.set(streamId, {
      shape: letter === 'D' && known.shape.endsWith('D') ? known.shape : known.shape + letter,
      data: Buffer.concat([known.data, data]),
    });
  }
  return streams;
}
