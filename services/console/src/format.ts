// Numbers, sizes, ages and moments as people read them. Pure.

const NUMBER = new Intl.NumberFormat('en', { maximumFractionDigits: 0 })
const SHORT = new Intl.NumberFormat('en', { maximumSignificantDigits: 3, notation: 'compact' })
const ACRONYMS: Record<string, string> = { tls: 'TLS', acl: 'ACL', qos: 'QoS', ca: 'CA', crl: 'CRL', mqtt: 'MQTT', id: 'identifier' }
const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB']

export function count(value: number | null | undefined): string {
  return value == null ? '–' : NUMBER.format(value)
}

/** A figure that changes: three digits are what an eye can follow. */
export function figure(value: number | null | undefined): string {
  if (value == null || Number.isNaN(value)) return '–'
  if (value !== 0 && Math.abs(value) < 10) return String(Number(value.toPrecision(2)))
  return Math.abs(value) < 100_000 ? NUMBER.format(value) : SHORT.format(value)
}

export function bytes(value: number | null | undefined): string {
  if (value == null) return '–'
  let size = value
  let unit = 0
  while (size >= 1024 && unit < UNITS.length - 1) {
    size /= 1024
    unit += 1
  }
  const digits = unit === 0 || size >= 100 ? 0 : 1
  return `${size.toFixed(digits)} ${UNITS[unit]}`
}

/** A length of time in at most two units: `3 d 4 h`, `12 min`, `800 ms`. */
export function duration(seconds: number | null | undefined): string {
  if (seconds == null) return '–'
  if (seconds < 0) return duration(-seconds)
  if (seconds === 0) return '0 s'
  if (seconds < 1) return `${figure(Number((seconds * 1000).toPrecision(3)))} ms`
  const steps: [string, number][] = [['d', 86400], ['h', 3600], ['min', 60], ['s', 1]]
  const first = steps.findIndex(([, length]) => seconds >= length)
  const [name, length] = steps[first] ?? ['s', 1]
  const whole = Math.floor(seconds / length)
  const next = steps[first + 1]
  const rest = next ? Math.floor((seconds - whole * length) / next[1]) : 0
  return rest > 0 && next && whole < 10 ? `${whole} ${name} ${rest} ${next[0]}` : `${whole} ${name}`
}

export function ago(at: number | null | undefined, now: number): string {
  if (at == null) return '–'
  const age = now - at
  if (age < -1) return `in ${duration(-age)}`
  return age < 2 ? 'now' : `${duration(Math.floor(age))} ago`
}

function two(value: number): string {
  return String(value).padStart(2, '0')
}

/** `10:42:07` in the reader's time zone. */
export function clock(at: number, milliseconds = false): string {
  const date = new Date(at * 1000)
  const text = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`
  return milliseconds ? `${text}.${String(date.getMilliseconds()).padStart(3, '0')}` : text
}

export function day(at: number): string {
  const date = new Date(at * 1000)
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`
}

export function moment(at: number | null | undefined): string {
  return at == null ? '–' : `${day(at)} ${clock(at)}`
}

/** The reader's time zone at a time: `UTC`, `UTC+5:30`. */
export function zone(at: number): string {
  const minutes = -new Date(at * 1000).getTimezoneOffset()
  const rest = Math.abs(minutes) % 60
  return minutes === 0 ? 'UTC' : `UTC${minutes < 0 ? '−' : '+'}${Math.floor(Math.abs(minutes) / 60)}${rest ? `:${two(rest)}` : ''}`
}

/** A sentence of the API with its times, `2026-11-30T10:42:07Z`, as those of the reader's time zone. */
export function localTimes(text: string): string {
  return text.replace(/\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ/g, one => {
    const at = Date.parse(one) / 1000
    return Number.isNaN(at) ? one : `${moment(at)} (${zone(at)})`
  })
}

/** `keep_alive_expired` as words. */
export function words(name: string | null | undefined): string {
  if (!name) return '–'
  const text = name.replaceAll('_', ' ').replace(/\b(?:tls|acl|ca|crl|mqtt|id)\b|\bqos/g, word => ACRONYMS[word] ?? word)
  return text.charAt(0).toUpperCase() + text.slice(1)
}

export function plural(number: number, one: string, many = `${one}s`): string {
  return `${count(number)} ${number === 1 ? one : many}`
}

/** A sentence that begins with a word begins with a capital; one that begins with a name stays. */
export function sentence(text: string): string {
  return /^[a-z]+ /.test(text) ? text.charAt(0).toUpperCase() + text.slice(1) : text
}
