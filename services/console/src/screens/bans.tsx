import type { JSX } from 'preact'
import { useState } from 'preact/hooks'
import type { Ban } from '../api/broker_types'
import { ApiError, may, post, remove } from '../api/client'
import { useList } from '../api/use'
import { sentence } from '../format'
import { t } from '../texts'
import { confirmed } from '../ui/act'
import { Dialog } from '../ui/dialog'
import { Age, Badge, Button, Card, Choice, Empty, Gaps, Heading, Loading, More, Notice, Segments, Table, Text, type Column } from '../ui/kit'
import { toast } from '../ui/state'

type Kind = 'client' | 'user' | 'address'
type Length = '600' | '3600' | '86400' | '604800' | ''

export function BanDialog({ start = {}, mountPoint = '', onClose }: {
  start?: Partial<Record<Kind, string>>, mountPoint?: string, onClose: () => void
}): JSX.Element {
  const [kind, setKind] = useState<Kind>((Object.keys(start)[0] as Kind | undefined) ?? 'client')
  const [value, setValue] = useState(start[kind] ?? '')
  const [reason, setReason] = useState('')
  const [length, setLength] = useState<Length>('3600')
  const [failure, setFailure] = useState<string | undefined>()
  const [busy, setBusy] = useState(false)
  const texts = t.bans
  const ban = async (): Promise<void> => {
    setBusy(true)
    const until = length ? Math.round(Date.now() / 1000) + Number(length) : null
    try {
      await post('bans', { [kind]: value.trim(), reason, until, ...(kind === 'client' ? { mount_point: mountPoint } : {}) })
      toast(texts.banned(value.trim()))
      onClose()
    } catch (error) {
      setFailure(sentence(error instanceof ApiError ? error.message : String(error)))
    }
    setBusy(false)
  }
  const kinds = Object.entries(texts.kinds) as [Kind, string][]
  const lengths = texts.lengths as [Length, string][]
  return (
    <Dialog title={texts.title} onClose={onClose}>
      <form onSubmit={event => { event.preventDefault(); void ban() }}>
        <div class="dialog-body">
          <Segments label={texts.what} value={kind} options={kinds} onChange={changed => { setKind(changed); setValue(start[changed] ?? '') }} />
          <Text label={texts.kinds[kind]} mono value={value} onInput={setValue} hint={texts.hints[kind]} required />
          <Text label={texts.reason} value={reason} onInput={setReason} hint={texts.reasonHint} />
          <Choice label={texts.until} value={length} options={lengths} onChange={setLength} />
          <ul class="effects">{texts.effects[kind].map(text => <li key={text}>{text}</li>)}</ul>
          {failure && <Notice tone="error">{failure}</Notice>}
        </div>
        <div class="dialog-foot">
          <Button onClick={onClose}>{t.cancel}</Button>
          <Button kind="danger" type="submit" disabled={busy || !value.trim()}>{texts.ban}</Button>
        </div>
      </form>
    </Dialog>
  )
}

function whom(ban: Ban): { kind: Kind, value: string } {
  if (ban.client) return { kind: 'client', value: ban.client }
  if (ban.user) return { kind: 'user', value: ban.user }
  return { kind: 'address', value: ban.address ?? '' }
}

export function Bans(): JSX.Element {
  const list = useList<Ban>('bans', {}, 3000)
  const [adding, setAdding] = useState(false)
  const lift = (ban: Ban): void => {
    const { value } = whom(ban)
    void confirmed({ title: t.bans.liftTitle(value), effects: t.bans.liftEffects(value), action: t.bans.lift },
      async () => await remove(`bans/${encodeURIComponent(ban.id)}`), t.bans.lifted(value)).then(done => { if (done) list.refresh() })
  }
  const columns: Column<Ban>[] = [
    { head: t.bans.who, cell: ban => <code class="strong">{whom(ban).value}</code> },
    { head: t.bans.what, cell: ban => <Badge>{t.bans.kinds[whom(ban).kind]}</Badge> },
    { head: t.bans.reason, cell: ban => ban.reason || '–' },
    { head: t.bans.ends, cell: ban => ban.until ? <Age at={ban.until} /> : t.bans.never },
    { head: t.bans.by, minor: true, cell: ban => <>{ban.by ?? '–'}{ban.at ? <small><Age at={ban.at} /></small> : null}</> },
    { head: '', right: true, cell: ban => may('admin') && <Button small onClick={() => { lift(ban) }}>{t.bans.lift}</Button> }
  ]
  return (
    <>
      <Heading title={t.nav.bans} lead={t.bans.lead}>
        {may('admin') && <Button kind="primary" icon="plus" onClick={() => { setAdding(true) }}>{t.bans.add}</Button>}
      </Heading>
      <Gaps missing={list.data?.missing} error={list.error} stale={Boolean(list.data)} />
      <Card flush>
        {list.data ? <Table name={t.nav.bans} columns={columns} items={list.data.items} id={ban => ban.id}
          empty={<Empty title={t.bans.none}>{t.bans.noneHint}</Empty>} /> : !list.error && <Loading />}
        <More more={list.more} busy={list.busy} shown={list.data?.items.length ?? 0} />
      </Card>
      {adding && <BanDialog onClose={() => { setAdding(false); list.refresh() }} />}
    </>
  )
}
