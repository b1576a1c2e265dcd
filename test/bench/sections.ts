import { connect } from './connect.ts';
import { downloads } from './download.ts';
import { growth } from './growth.ts';
import { idle } from './idle.ts';
import { keystrokes } from './keystroke.ts';
import { many } from './many.ts';
import { roundTrips } from './round-trips.ts';
import type { SectionSettings } from './rows.ts';
import type { Row } from './stats.ts';
import { uploads } from './upload.ts';

export type SectionName =
  'connect' | 'round-trips' | 'upload' | 'download' | 'idle' | 'many' | 'keystroke' | 'growth';

/** In the order of the table. */
export const sections: Record<SectionName, (settings: SectionSettings) => Promise<Row[]>> = {
  connect,
  'round-trips': roundTrips,
  upload: uploads,
  download: downloads,
  idle,
  many,
  keystroke: keystrokes,
  growth,
};
