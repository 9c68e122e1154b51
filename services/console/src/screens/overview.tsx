import type { JSX } from 'preact'
import { total, values, type Figures } from '../api/figures'
import type { BrokerFinding, Condition, NodePage, Overview as State, Resource, StoreServer, StoreState } from '../api/broker_types'
import type { BrokerEvent, Finding, Page, Severity } from '../api/types'
import { useApi } from '../api/use'
import { bytes, count, duration, figure, localTimes, sentence, words } from '../format'
import { href } from '../route'
import { t } from '../texts'
import { Chart } from '../ui/chart'
import { Icon, type IconName } from '../ui/icons'
import { Age, Badge, Card, Facts, Gaps, Heading, Loading, Notice, Table, type Column, type Tone } from '../ui/kit'
import { NodeTable } from './nodes'
import { Timeline } from './timeline'

const STATES: Record<State['state'], [Tone, string]> = {
  ok: ['ok', t.overview.ok], degraded: ['warning', t.overview.degraded], down: ['error', t.overview.down]
}
const ICONS: Record<string, IconName> = { error: 'error', warning: 'warning', info: 'info', ok: 'check' }

export function Findings({ items }: { items: Finding[] }): JSX.Element {
  return (
    <div>
      {items.map(item => (
        <div class={`finding ${item.severity}`} key={item.text}>
          <Icon name={ICONS[item.severity] ?? 'info'} />
          <div><p>{sentence(localTimes(item.text))}</p>{item.todo && <p class="todo">{sentence(item.todo)}</p>}</div>
        </div>
      ))}
    </div>
  )
}

function Tile({ name, value, note, to }: { name: string, value: string, note?: string | undefined, to?: string }): JSX.Element {
  const inside = <><span>{name}</span><b>{value}</b>{note && <small>{note}</small>}</>
  return to ? <a class="tile" href={to}>{inside}</a> : <div class="tile">{inside}</div>
}

const IN = ['messages_in_qos0', 'messages_in_qos1', 'messages_in_qos2']
const OUT = ['messages_out_qos0', 'messages_out_qos1', 'messages_out_qos2']

function Tiles({ overview, figures }: { overview: State, figures: Figures | undefined }): JSX.Element {
  const totals = overview.totals
  const texts = t.overview.tiles
  return (
    <div class="tiles">
      <Tile name={texts.connections} value={count(totals?.connections)} to={href(['clients'], { state: 'connected' })} />
      <Tile name={texts.sessions} value={count(totals?.sessions)} to={href(['clients'], { state: 'offline' })} />
      <Tile name={texts.in} value={figure(total(figures, IN))} note={texts.perSecond} />
      <Tile name={texts.out} value={figure(total(figures, OUT))} note={texts.perSecond} />
      <Tile name={texts.subscriptions} value={count(totals?.subscriptions)} />
      <Tile name={texts.retained} value={count(totals?.retained)} to={href(['topics'])} />
    </div>
  )
}

function Reasons({ title, reasons, good }: { title: string, reasons: Record<string, number>, good: string }): JSX.Element {
  const rows = Object.entries(reasons).filter(([, number]) => number > 0).sort((a, b) => b[1] - a[1])
  const most = rows[0]?.[1] ?? 1
  return (
    <Card title={title}>
      {rows.length === 0 ? <p class="quiet-text">{good}</p> : (
        <div class="bars">{rows.map(([reason, number]) => (
          <div class="bar-row" key={reason}>
            <span>{words(reason)}</span><b>{count(number)}</b>
            <progress max={most} value={number} aria-label={words(reason)} />
          </div>
        ))}</div>
      )}
    </Card>
  )
}

function Curves({ figures }: { figures: Figures }): JSX.Element {
  const texts = t.overview.curves
  const byQos = (names: string[]) => names.map((name, qos) => ({
    name: `QoS ${qos}`, values: values(figures, name), colour: qos + 1
  }))
  const one = (name: string, text: string, colour: number) => [{ name: text, values: values(figures, name), colour }]
  const at = figures.at
  return (
    <div class="columns">
      <Card><Chart at={at} title={texts.in} lines={byQos(IN)} /></Card>
      <Card><Chart at={at} title={texts.out} lines={byQos(OUT)} /></Card>
      <Card><Chart at={at} title={texts.connections} lines={[
        ...one('connections', texts.connected, 1), ...one('sessions', texts.sessions, 4)]} /></Card>
      <Card><Chart at={at} title={texts.queued} lines={one('queued', texts.messages, 3)} /></Card>
      <Card><Chart at={at} title={texts.lost} lines={[
        ...one('dropped', texts.dropped, 5), ...one('refused', texts.refused, 3)]} /></Card>
      <Card><Chart at={at} title={texts.store} lines={one('store_latency_ms', texts.latency, 2)}
        unit={value => duration(value / 1000)} /></Card>
    </div>
  )
}

function Store(): JSX.Element {
  const { data, error } = useApi<StoreState>('store', {}, 5000)
  const texts = t.overview.store
  const server = data?.servers[0]
  if (error || !data?.reachable) {
    return <Card title={texts.title}><p class="quiet-text">{error?.message ?? (data ? data.problem || texts.away : t.loading)}</p></Card>
  }
  const middle = data.latency_ms[Math.floor(data.latency_ms.length / 2)]
  const items: [string, string][] = [[texts.url, data.url], [texts.durability, data.durability]]
  if (middle !== undefined) items.push([texts.latency, duration(middle / 1000)])
  if (server) items.push(...serverFacts(server, data.servers.length))
  return <Card title={texts.title}><Facts items={items} /></Card>
}

function serverFacts(server: StoreServer, servers: number): [string, string][] {
  const texts = t.overview.store
  const limit = server.memory_limit_bytes ? texts.of(bytes(server.memory_limit_bytes)) : ''
  const lag = server.replica_lag_s ? texts.lag(duration(server.replica_lag_s)) : ''
  return [
    [texts.kind, `${server.version}${servers > 1 ? ` (${servers})` : ''}`],
    [texts.memory, bytes(server.memory_bytes) + limit],
    [texts.appendOnly, server.append_only ? (server.append_only_ok ? texts.fine : texts.failing) : texts.off],
    [texts.replicas, count(server.replicas) + lag],
    [texts.operations, `${count(server.operations_per_s)} ${texts.perSecond}`]
  ]
}

/** What each condition should be; the others only say what goes on. */
const WANTED: Record<string, string> = {
  Ready: 'True', CertificatesReady: 'True', ConfigApplied: 'True', StoreReplicated: 'True', Degraded: 'False', Stalled: 'False'
}

function conditionTone(one: Condition): Tone {
  const wanted = WANTED[one.type]
  if (wanted === undefined || one.status === 'Unknown') return 'quiet'
  return one.status === wanted ? 'ok' : 'warning'
}

const CONDITION_COLUMNS: Column<Condition>[] = [
  { head: t.overview.resource.condition, cell: one => one.type },
  { head: t.overview.resource.status, cell: one => <Badge tone={conditionTone(one)}>{one.status}</Badge> },
  { head: t.overview.resource.reason, cell: one => one.reason },
  { head: t.overview.resource.since, right: true, minor: true, cell: one => <Age at={one.changed_at} /> },
  { head: t.overview.resource.message, minor: true, cell: one => localTimes(one.message) }
]

function Conditions({ resource }: { resource: Resource }): JSX.Element {
  const title = t.overview.resource.title(`${resource.namespace}/${resource.name}`)
  return (
    <Card title={title} flush extra={<small>{t.overview.resource.seen} <Age at={resource.seen_at} /></small>}>
      <Table name={title} columns={CONDITION_COLUMNS} items={resource.conditions} id={one => one.type} />
    </Card>
  )
}

const LEVELS: Record<BrokerFinding['level'], Severity> = { problem: 'error', advice: 'warning', ok: 'ok' }

function asFinding(one: BrokerFinding): Finding {
  return { text: one.node && !one.text.includes(one.node) ? `${one.node}: ${one.text}` : one.text, severity: LEVELS[one.level], todo: one.change }
}

export function Overview(): JSX.Element {
  const { data, error } = useApi<State>('overview', {}, 3000)
  const figures = useApi<Figures>('figures', {}, 10_000)
  const events = useApi<Page<BrokerEvent>>('events', { limit: 10 }, 5000)
  const nodes = useApi<NodePage>('nodes', {}, 5000)
  const [tone, text] = data ? STATES[data.state] : ['quiet' as const, t.loading]
  return (
    <>
      <Heading title={<>{t.nav.overview} <Badge tone={tone} dot>{text}</Badge></>} lead={t.overview.lead} />
      <Gaps missing={data?.missing} error={error} stale={Boolean(data)} />
      {!data && !error && <Loading />}
      {data && (data.findings.length > 0
        ? <Card title={t.overview.first}><Findings items={data.findings.map(asFinding)} /></Card>
        : data.state === 'ok' && <Notice tone="ok">{t.overview.well}</Notice>)}
      {data && <Tiles overview={data} figures={figures.data} />}
      {figures.data && figures.data.at.length > 1 && <Curves figures={figures.data} />}
      {data && (
        <div class="columns">
          <div class="stack">
            <Reasons title={t.overview.dropped} reasons={data.dropped} good={t.overview.noneDropped} />
            <Reasons title={t.overview.refused} reasons={data.refused} good={t.overview.noneRefused} />
            <Store />
          </div>
          {events.data && <Card title={t.overview.last} flush><Timeline events={events.data.items} withClient /></Card>}
        </div>
      )}
      {data?.resource && <Conditions resource={data.resource} />}
      {nodes.data && nodes.data.items.length > 0 && (
        <Card title={t.nav.nodes} flush extra={<a href={href(['nodes'])}>{t.all}</a>}>
          <NodeTable nodes={nodes.data.items} />
        </Card>
      )}
    </>
  )
}
