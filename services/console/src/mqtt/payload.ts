// Payloads as people read them: text, JSON, hex, CBOR or an image. Pure.
import { decode as decodeCbor } from 'cborg'

export type View = 'text' | 'json' | 'hex' | 'cbor' | 'image'

const STRICT = new TextDecoder('utf-8', { fatal: true })
const LENIENT = new TextDecoder()
const IMAGES: [string, number[]][] = [
  ['image/png', [0x89, 0x50, 0x4e, 0x47]],
  ['image/jpeg', [0xff, 0xd8, 0xff]],
  ['image/gif', [0x47, 0x49, 0x46, 0x38]],
  ['image/webp', [0x52, 0x49, 0x46, 0x46]]
]

export function asText(payload: Uint8Array): string | null {
  try {
    const text = STRICT.decode(payload)
    // eslint-disable-next-line no-control-regex
    return /[\u0000-\u0008\u000e-\u001f]/.test(text) ? null : text
  } catch {
    return null
  }
}

export function asJson(payload: Uint8Array): unknown {
  const text = asText(payload)?.trim()
  if (!text || !/^[[{"\d-]|^(true|false|null)$/.test(text)) return undefined
  try {
    return JSON.parse(text) as unknown
  } catch {
    return undefined
  }
}

export function asCbor(payload: Uint8Array): unknown {
  if (payload.length === 0) return undefined
  try {
    return decodeCbor(payload, { useMaps: false, allowBigInt: true }) as unknown
  } catch {
    return undefined
  }
}

export function imageType(payload: Uint8Array): string | null {
  const found = IMAGES.find(([, magic]) => magic.every((byte, index) => payload[index] === byte))
  return found?.[0] ?? null
}

/** Offset, sixteen bytes and their ASCII on each line. */
export function asHex(payload: Uint8Array, limit = 4096): string {
  const lines = []
  const shown = payload.subarray(0, limit)
  for (let start = 0; start < shown.length; start += 16) {
    const row = [...shown.subarray(start, start + 16)]
    const digits = row.map(byte => byte.toString(16).padStart(2, '0')).join(' ')
    const letters = row.map(byte => (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : '·')).join('')
    lines.push(`${start.toString(16).padStart(6, '0')}  ${digits.padEnd(47)}  ${letters}`)
  }
  if (payload.length > limit) lines.push(`… ${payload.length - limit} more bytes`)
  return lines.join('\n')
}

/** The views that make sense of this payload; the first one is the best. */
export function views(payload: Uint8Array): View[] {
  const found: View[] = []
  if (imageType(payload)) found.push('image')
  if (asJson(payload) !== undefined) found.push('json')
  const text = asText(payload)
  if (text !== null) found.push('text')
  // Nearly every short text is CBOR too, so it is offered for what is no text.
  if (text === null && !found.length && asCbor(payload) !== undefined) found.push('cbor')
  found.push('hex')
  return found
}

export function pretty(value: unknown): string {
  return JSON.stringify(value, (_, inner: unknown) => {
    if (typeof inner === 'bigint') return inner.toString()
    if (inner instanceof Uint8Array) return `h'${[...inner].map(b => b.toString(16).padStart(2, '0')).join('')}'`
    return inner
  }, 2) ?? String(value)
}

export function render(payload: Uint8Array, view: View): string {
  if (view === 'json') return pretty(asJson(payload))
  if (view === 'cbor') return pretty(asCbor(payload))
  if (view === 'hex') return asHex(payload)
  return LENIENT.decode(payload)
}

/** One line for a list. */
export function preview(payload: Uint8Array, limit = 200): string {
  const start = payload.subarray(0, limit)
  const text = asText(start) ?? (payload.length > limit ? asText(payload.subarray(0, limit - 3)) : null)
  if (text === null) {
    return [...start.subarray(0, 32)].map(byte => byte.toString(16).padStart(2, '0')).join(' ') +
      (payload.length > 32 ? ' …' : '')
  }
  return text.replace(/\s+/g, ' ') + (payload.length > limit ? ' …' : '')
}

export function fromBase64(text: string): Uint8Array {
  return Uint8Array.from(atob(text), letter => letter.charCodeAt(0))
}

export function toBase64(payload: Uint8Array): string {
  let text = ''
  for (const byte of payload) text += String.fromCharCode(byte)
  return btoa(text)
}
