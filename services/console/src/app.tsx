// The frame: navigation, who is logged in, and the screen that the address names.
import type { JSX } from 'preact'
import { useEffect, useState } from 'preact/hooks'
import { begin, logout, may, me, overdue, reachable, whoAmI } from './api/client'
import icon from './icon.svg?url'
import { href, route, takeToken } from './route'
import { Audit } from './screens/audit'
import { Bans } from './screens/bans'
import { Client } from './screens/client'
import { Clients } from './screens/clients'
import { Group, Groups } from './screens/groups'
import { Listeners } from './screens/listeners'
import { Login } from './screens/login'
import { Nodes } from './screens/nodes'
import { Overview } from './screens/overview'
import { Settings } from './screens/settings'
import { Socket } from './screens/socket'
import { Tokens } from './screens/tokens'
import { Topics } from './screens/topics'
import { t } from './texts'
import { Confirmation, Toasts } from './ui/dialog'
import { Icon, type IconName } from './ui/icons'
import { Button, Empty, Loading, Notice, Segments } from './ui/kit'
import { setTheme, theme, type Theme } from './ui/state'

/** What only an admin may look at. */
const ADMINS = new Set(['tokens', 'audit'])

type Entry = [path: string, icon: IconName, name: string]

const GROUPS: [string, Entry[]][] = [
  [t.nav.watch, [
    ['', 'overview', t.nav.overview], ['clients', 'clients', t.nav.clients],
    ['topics', 'topics', t.nav.topics], ['groups', 'groups', t.nav.groups]
  ]],
  [t.nav.tryOut, [['socket', 'socket', t.nav.socket]]],
  [t.nav.operate, [
    ['nodes', 'nodes', t.nav.nodes], ['listeners', 'listeners', t.nav.listeners], ['bans', 'bans', t.nav.bans],
    ['settings', 'settings', t.nav.settings], ['tokens', 'lock', t.nav.tokens], ['audit', 'audit', t.nav.audit]
  ]]
]

function Screen(): JSX.Element {
  const [first = '', second] = route.value.path
  switch (first) {
    case '': return <Overview />
    case 'clients': return second === undefined ? <Clients /> : <Client key={second} id={second} />
    case 'topics': return <Topics />
    case 'groups': return second === undefined ? <Groups /> : <Group key={second} name={second} />
    case 'socket': return <Socket />
    case 'nodes': return <Nodes />
    case 'listeners': return <Listeners />
    case 'bans': return <Bans />
    case 'audit': return <Audit />
    case 'settings': return <Settings />
    case 'tokens': return <Tokens />
    default: return <Empty title={t.nothingHere}><a href="#/">{t.toOverview}</a></Empty>
  }
}

function Brand(): JSX.Element {
  return <a class="brand" href="#/"><img src={icon} alt="" />{t.product}</a>
}

function Navigation({ open, onGo }: { open: boolean, onGo: () => void }): JSX.Element {
  const current = route.value.path[0] ?? ''
  const themes: [Theme, string][] = [['auto', t.theme.auto], ['light', t.theme.light], ['dark', t.theme.dark]]
  return (
    <div class={`side${open ? ' open' : ''}`} id="navigation">
      <Brand />
      <nav aria-label={t.nav.label}>
        {GROUPS.map(([name, entries]) => (
          <div key={name}>
            <div class="nav-group">{name}</div>
            {entries.filter(([path]) => may('admin') || !ADMINS.has(path)).map(([path, iconName, text]) => (
              <a key={path} class="nav-link" href={href(path ? [path] : [])} onClick={onGo}
                aria-current={current === path ? 'page' : undefined}>
                <Icon name={iconName} />{text}
              </a>
            ))}
          </div>
        ))}
      </nav>
      <div class="side-foot">
        <Segments label={t.theme.label} value={theme.value} options={themes} onChange={setTheme} />
        <div class="who">
          <div><b title={me.value?.user}>{me.value?.user}</b><span>{me.value && t.roles[me.value.role]}</span></div>
          <Button kind="quiet" icon="out" label={t.logOut} onClick={() => { void logout() }} />
        </div>
      </div>
    </div>
  )
}

/** Ask again until the console answers; then every screen asks for its own. */
function Away(): JSX.Element | null {
  const away = !reachable.value
  useEffect(() => {
    if (!away) return
    const timer = setInterval(() => { void whoAmI() }, 2000)
    return () => { clearInterval(timer) }
  }, [away])
  return away ? <div class="away" role="alert"><Icon name="warning" />{t.away.banner}</div> : null
}

function Frame(): JSX.Element {
  const [open, setOpen] = useState(false)
  const [first = '', second = ''] = route.value.path
  useEffect(() => {
    const onKey = (event: KeyboardEvent): void => { if (event.key === 'Escape') setOpen(false) }
    addEventListener('keydown', onKey)
    return () => { removeEventListener('keydown', onKey) }
  }, [])
  useEffect(() => {
    const heading = document.querySelector('h1')
    document.title = [heading?.textContent, t.product].filter(Boolean).join(' · ')
    scrollTo(0, 0)
  }, [first, second])
  return (
    <div class="frame">
      <a class="skip" href="#main" onClick={event => {
        event.preventDefault()
        document.getElementById('main')?.focus()
      }}>{t.skip}</a>
      <div class="top-bar">
        <Brand />
        <button type="button" class="button quiet square" aria-label={t.nav.menu} aria-expanded={open}
          aria-controls="navigation" onClick={() => { setOpen(!open) }}><Icon name="menu" /></button>
      </div>
      {open && <button type="button" class="shade" aria-label={t.close} onClick={() => { setOpen(false) }} />}
      <Navigation open={open} onGo={() => { setOpen(false) }} />
      <div>
        <Away />
        <main id="main" tabIndex={-1}>
          {overdue.value > 0 && reachable.value && <Notice tone="warning">{t.away.overdue}</Notice>}
          <Screen />
        </main>
      </div>
    </div>
  )
}

export function App(): JSX.Element {
  useEffect(() => { void begin(takeToken()) }, [])
  const address = route.value
  useEffect(() => {
    const token = takeToken()
    if (token) void begin(token)
  }, [address])
  const known = me.value
  return (
    <>
      {known === undefined && <div class="login">{reachable.value ? <Loading /> : <Away />}</div>}
      {known === null && <Login />}
      {known && <Frame />}
      <Confirmation />
      <Toasts />
    </>
  )
}
