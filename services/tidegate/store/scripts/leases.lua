-- Leases of edges and routers, and fences of router instances. G is the prefix of what belongs to no
-- partition.

local FENCE_S = 86400

-- arguments: G, edge, now, how long, number that every partition knows (0 = none)
-- result: 0 = the lease had been there until now, else the number of the new one. Such a lease is
--   marked until its number comes back as one that every partition knows.
local function renew_lease(i)
  local G, edge, now = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  local lease = call('HGET', G .. 'edges', edge) or ''
  local ends, number, new = string.match(lease, '^(%d+) (%d+)( ?%*?)$')
  if not ends or tonumber(ends) <= now then
    number, new = call('INCR', G .. 'leases'), ' *'
  elseif number == ARGV[i + 4] then
    new = ''
  end
  lease = string.format('%.0f %s%s', now + tonumber(ARGV[i + 3]), number, new)
  call('HSET', G .. 'edges', edge, lease)
  return new == '' and 0 or tonumber(number)
end

-- arguments: edge, number of its lease, P…; result: 1 for each
local function announce_lease(i, last)
  local results = {}
  for at = i + 2, last do
    call('HSET', ARGV[at] .. 'edges', ARGV[i], ARGV[i + 1])
    call('HDEL', ARGV[at] .. 'gone', ARGV[i])
    results[#results + 1] = 1
  end
  return results
end

-- arguments: G, now; result: the newest number of a lease, and every edge that has one
local function leased_edges(i)
  local G, now = ARGV[i], tonumber(ARGV[i + 1])
  local found = {call('GET', G .. 'leases') or 0}
  local leases = call('HGETALL', G .. 'edges')
  for n = 1, #leases, 2 do
    if tonumber(string.match(leases[n + 1], '^%d+')) <= now then
      call('HDEL', G .. 'edges', leases[n])
    else
      found[#found + 1] = leases[n]
    end
  end
  return found
end

-- arguments: (P, C, epoch)…; result: for each 1 = this connection owns its session, 0 = it does not
local function verify(i, last)
  local results = {}
  for at = i, last, 3 do
    local v = call('HMGET', ARGV[at] .. 's:' .. ARGV[at + 1], 'e', 'g')
    results[#results + 1] = v[1] == ARGV[at + 2] and v[2] ~= '' and 1 or 0
  end
  return results
end

-- arguments: key, instance, now, how long, positions; result: {instance, its record, …} of all
local function renew_router(i)
  local key, now = ARGV[i], tonumber(ARGV[i + 2])
  local ends = string.format('%.0f', now + tonumber(ARGV[i + 3]))
  call('HSET', key, ARGV[i + 1], ends .. ':' .. ARGV[i + 4])
  local records = call('HGETALL', key)
  for n = 1, #records, 2 do
    if tonumber(string.match(records[n + 1], '^%d+')) <= now then call('HDEL', key, records[n]) end
  end
  return records
end

-- arguments: writer, P…; result: 1 for each
local function fence_writer(i, last)
  local results = {}
  local fenced = fences_of(ARGV[i], i + 1, last, 1)
  for at = i + 1, last do
    call('SET', ARGV[at] .. 'f:' .. ARGV[i], 1, 'EX', FENCE_S)
    fenced[ARGV[at]] = true
    results[#results + 1] = 1
  end
  return results
end
