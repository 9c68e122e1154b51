import type { JSX } from 'preact'
import type { Certificate, ListenerInfo } from '../api/broker_types'
import type { Page } from '../api/types'
import { useApi } from '../api/use'
import { count, day, duration, words } from '../format'
import type { Listener } from '../mqtt/listeners'
import { t } from '../texts'
import { Badge, Card, Empty, Gaps, Heading, Loading, Notice, Table, type Column, type Tone } from '../ui/kit'
import { now } from '../ui/state'

function portOf(address: string): number {
  return Number(/:(\d+)$/.exec(address)?.[1] ?? 0)
}

/** What the WebSocket client needs of the API's listeners. */
export function readListeners(data: unknown): Listener[] {
  const page = data as Page<ListenerInfo> | undefined
  return (page?.items ?? []).map(one => {
    const certificates = one.tls?.certificates.filter(each => each.names.length > 0) ?? []
    const ends = one.tls?.certificates.map(each => each.not_after) ?? []
    return {
      name: one.listener, protocol: one.protocol, port: portOf(one.addresses[0] ?? ''), path: one.paths[0] ?? '/mqtt',
      tls: one.protocol === 'wss' || (one.protocol === 'auto' && one.tls != null),
      names: certificates.flatMap(each => each.names), endsAt: ends.length ? Math.min(...ends) : undefined
    }
  })
}

const COLUMNS: Column<ListenerInfo>[] = [
  { head: t.clients.listener, cell: one => <span class="strong">{one.listener}</span> },
  { head: t.nodes.node, cell: one => one.node },
  { head: t.listeners.protocol, cell: one => <Badge tone={one.tls ? 'accent' : 'quiet'}>{one.protocol}</Badge> },
  {
    head: t.listeners.addresses,
    cell: one => <>{one.addresses.map(address => <div key={address}><code>{address}</code></div>)}{one.paths.length > 0 && <small>{t.listeners.paths(one.paths.join(', '))}</small>}</>
  },
  { head: t.listeners.mountPoint, minor: true, cell: one => one.mount_point ? <code>{one.mount_point}</code> : '–' },
  {
    head: t.listeners.connections, right: true,
    cell: one => <>{count(one.connections)}{one.max_connections > 0 && <small>{t.listeners.of(count(one.max_connections))}</small>}</>
  },
  { head: t.listeners.anonymous, cell: one => one.allow_anonymous ? <Badge tone="warning">{t.listeners.allowed}</Badge> : t.no },
  { head: t.listeners.refused, right: true, cell: one => refusals(one.refused) }
]

function refusals(refused: Record<string, number>): JSX.Element | string {
  const rows = Object.entries(refused).filter(([, number]) => number > 0)
  if (rows.length === 0) return '0'
  return <>{rows.map(([reason, number]) => <div key={reason}>{words(reason)}: {count(number)}</div>)}</>
}

interface Known extends Certificate { where: string[] }

/** Each certificate once, with all the listeners that have it. */
function certificates(listeners: ListenerInfo[]): Known[] {
  const found = new Map<string, Known>()
  for (const one of listeners) {
    const tls = one.tls
    for (const each of tls ? [...tls.certificates, ...tls.client_ca, ...tls.client_crl] : []) {
      const key = `${each.what} ${each.path} ${each.not_after}`
      const known = found.get(key) ?? { ...each, where: [] }
      const place = `${one.listener} (${one.node})`
      if (!known.where.includes(place)) known.where.push(place)
      found.set(key, known)
    }
  }
  return [...found.values()].sort((a, b) => a.not_after - b.not_after)
}

function Ends({ at }: { at: number }): JSX.Element {
  const left = at - now.value
  const tone: Tone = left < 0 ? 'error' : left < 14 * 86400 ? 'warning' : 'ok'
  return <><Badge tone={tone}>{left < 0 ? t.listeners.expired(duration(-left)) : t.listeners.left(duration(left))}</Badge><small>{day(at)}</small></>
}

const CERTIFICATE_COLUMNS: Column<Known>[] = [
  { head: t.listeners.names, cell: one => <span class="strong">{one.names.join(', ') || words(one.what)}</span> },
  { head: t.listeners.what, cell: one => words(one.what) },
  { head: t.listeners.ends, cell: one => <Ends at={one.not_after} /> },
  { head: t.nav.listeners, cell: one => one.where.join(', ') },
  { head: t.listeners.file, minor: true, cell: one => <code>{one.path}</code> }
]

export function Listeners(): JSX.Element {
  const { data, error } = useApi<Page<ListenerInfo>>('listeners', {}, 5000)
  const known = certificates(data?.items ?? [])
  return (
    <>
      <Heading title={t.nav.listeners} lead={t.listeners.lead} />
      <Gaps missing={data?.missing} error={error} stale={Boolean(data)} />
      {!data && !error && <Loading />}
      {known.filter(one => one.problem).map(one => <Notice key={one.path} tone="error" title={one.names.join(', ') || one.path}> {one.problem}</Notice>)}
      {data && (
        <Card flush title={t.listeners.title}>
          <Table name={t.listeners.title} columns={COLUMNS} items={data.items} id={one => `${one.node} ${one.listener}`} empty={<Empty title={t.listeners.none} />} />
        </Card>
      )}
      {data && (
        <Card flush title={t.listeners.certificates}>
          <Table name={t.listeners.certificates} columns={CERTIFICATE_COLUMNS} items={known} id={one => `${one.what} ${one.path} ${one.not_after}`}
            empty={<Empty title={t.listeners.noCertificates}>{t.listeners.noCertificatesHint}</Empty>} />
        </Card>
      )}
    </>
  )
}
