import type { JSX } from 'preact'
import { useState } from 'preact/hooks'
import type { Node, NodePage } from '../api/broker_types'
import { may, post } from '../api/client'
import { useApi } from '../api/use'
import { bytes, count, duration, figure, plural } from '../format'
import { href } from '../route'
import { t } from '../texts'
import { attempt, confirmed } from '../ui/act'
import { Dialog } from '../ui/dialog'
import { Badge, Button, Card, Empty, Facts, Gaps, Heading, Loading, Notice, Table, Text, type Column } from '../ui/kit'

export function NodeBadge({ node }: { node: Node }): JSX.Element {
  if (node.drain?.done) return <Badge tone="info" dot>{t.nodes.drained}</Badge>
  if (node.drain?.draining) return <Badge tone="warning" dot>{t.nodes.draining}</Badge>
  return <Badge tone={node.ready ? 'ok' : 'error'} dot>{node.ready ? t.nodes.ready : t.nodes.notReady}</Badge>
}

function cpu(node: Node): string {
  const value = node.load['cpu_percent']
  return value === undefined ? '–' : `${figure(value)} %`
}

const COLUMNS: Column<Node>[] = [
  { head: t.nodes.node, cell: node => <a class="strong" href={href(['nodes'])}>{node.name}</a> },
  { head: t.nodes.role, cell: node => t.nodes.roles[node.role] ?? node.role },
  { head: t.clients.state, cell: node => <NodeBadge node={node} /> },
  { head: t.nav.clients, right: true, cell: node => count(node.clients) },
  { head: t.nodes.cpu, right: true, minor: true, cell: cpu },
  { head: t.nodes.memory, right: true, minor: true, cell: node => bytes(node.load['memory_bytes']) },
  { head: t.nodes.version, minor: true, cell: node => node.version },
  { head: t.nodes.uptime, right: true, minor: true, cell: node => duration(node.uptime_s) }
]

export function NodeTable({ nodes }: { nodes: Node[] }): JSX.Element {
  return <Table name={t.nav.nodes} columns={COLUMNS} items={nodes} id={node => node.name} />
}

function DrainProgress({ node }: { node: Node }): JSX.Element | null {
  const drain = node.drain
  if (!drain?.draining && !drain?.done) return null
  const gone = drain.clients_at_start - drain.clients_left
  return (
    <div class="stack">
      <progress max={Math.max(1, drain.clients_at_start)} value={drain.clients_at_start === 0 ? 1 : gone} aria-label={t.nodes.drainProgress(node.name)} />
      <p>{drain.done ? t.nodes.drainDone : t.nodes.drainState(count(gone), count(drain.clients_at_start), count(drain.clients_left))}</p>
    </div>
  )
}

function ShedDialog({ node, onClose, refresh }: { node: Node, onClose: () => void, refresh: () => void }): JSX.Element {
  const [number, setNumber] = useState('')
  const start = async (): Promise<void> => {
    const done = await attempt(async () => await post(`nodes/${encodeURIComponent(node.name)}/shed`, { connections: Number(number) }), t.nodes.shedStarted(node.name))
    if (done) {
      refresh()
      onClose()
    }
  }
  return (
    <Dialog title={t.nodes.shedTitle(node.name)} onClose={onClose}>
      <form onSubmit={event => { event.preventDefault(); void start() }}>
        <div class="dialog-body">
          <ul class="effects">{t.nodes.shedEffects.map(text => <li key={text}>{text}</li>)}</ul>
          <Text label={t.nodes.shedNumber} type="number" min={1} max={Math.max(1, node.clients ?? 1)} required value={number} onInput={setNumber}
            hint={t.nodes.shedHint(plural(node.clients ?? 0, 'client'))} />
        </div>
        <div class="dialog-foot">
          <Button onClick={onClose}>{t.cancel}</Button>
          <Button kind="danger" type="submit" disabled={!number}>{t.nodes.shed}</Button>
        </div>
      </form>
    </Dialog>
  )
}

function NodeCard({ node, refresh }: { node: Node, refresh: () => void }): JSX.Element {
  const [shedding, setShedding] = useState(false)
  const texts = t.nodes
  const canDrain = node.drain != null && !node.drain.draining && !node.drain.done
  const drain = (): void => {
    void confirmed({ title: texts.drainTitle(node.name), effects: texts.drainEffects(plural(node.clients ?? 0, 'client')), action: texts.drain },
      async () => await post(`nodes/${encodeURIComponent(node.name)}/drain`), texts.drainStarted(node.name)).then(done => { if (done) refresh() })
  }
  return (
    <Card title={<>{node.name} <NodeBadge node={node} /></>} extra={(
      <>
        <Badge>{texts.roles[node.role] ?? node.role}</Badge>
        {canDrain && may('operator') && (
          <>
            <Button small disabled={!node.clients} onClick={() => { setShedding(true) }}>{texts.shed}</Button>
            <Button small kind="danger" onClick={drain}>{texts.drain}</Button>
          </>
        )}
      </>
    )}>
      <div class="stack">
        <DrainProgress node={node} />
        {node.shedding > 0 && <p>{texts.sheddingNow(plural(node.shedding, 'client'))}</p>}
        {!node.ready && !node.drain?.draining && !node.drain?.done && node.reason && <Notice tone="error" title={texts.notReady}> {node.reason}</Notice>}
        {node.configuration_problem && <Notice tone="error" title={texts.configuration}> {node.configuration_problem}</Notice>}
        {node.clock_problem && <Notice tone="warning" title={texts.clock}> {node.clock_problem}</Notice>}
        {node.restart_needed.length > 0 && <Notice tone="info" title={texts.restart}> <code>{node.restart_needed.join(', ')}</code></Notice>}
        <Facts items={[
          [texts.version, node.version],
          [texts.uptime, duration(node.uptime_s)],
          ...(node.clients != null ? [[t.nav.clients, <a href={href(['clients'])}>{count(node.clients)}</a>] as [string, JSX.Element]] : []),
          [texts.cpu, cpu(node)],
          [texts.memory, bytes(node.load['memory_bytes'])],
          [texts.lag, node.load['event_loop_lag_ms'] === undefined ? '–' : duration(node.load['event_loop_lag_ms'] / 1000)],
          [texts.address, <code>{node.address}</code>]
        ]} />
      </div>
      {shedding && <ShedDialog node={node} refresh={refresh} onClose={() => { setShedding(false) }} />}
    </Card>
  )
}

export function Nodes(): JSX.Element {
  const { data, error, refresh } = useApi<NodePage>('nodes', {}, 1500)
  return (
    <>
      <Heading title={t.nav.nodes} lead={t.nodes.lead} />
      <Gaps missing={data?.missing} error={error} stale={Boolean(data)} />
      {!data && !error && <Loading />}
      {data && data.items.length === 0 && <Card><Empty title={t.nodes.none}>{t.nodes.noneHint}</Empty></Card>}
      <div class="columns">{data?.items.map(node => <NodeCard key={node.name} node={node} refresh={refresh} />)}</div>
    </>
  )
}
