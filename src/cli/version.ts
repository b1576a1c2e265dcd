declare const SSM_BRIDGE_VERSION: string | undefined;

/** Set by scripts/build.mjs from package.json. */
export const version: string =
  typeof SSM_BRIDGE_VERSION === 'string' ? SSM_BRIDGE_VERSION : 'development';
