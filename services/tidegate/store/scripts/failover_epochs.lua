-- A promoted replica, or a restarted server, may have lost the last numbers that were given out; a
-- number given twice would make two owners of a session.

-- arguments: P, the run_id of the server; result: 1 if the partition was last on another server
local function skip_epochs(i)
  local P, server = ARGV[i], ARGV[i + 1]
  if call('GET', P .. 'server') == server then return 0 end
  local found = 0
  for _, counter in ipairs({P .. 'epoch', P .. 'leases'}) do
    local last = call('GET', counter)
    if last then
      local from = math.max(tonumber(last), number_of_now())
      call('SET', counter, string.format('%.0f', from + SKIPPED))
      found = 1
    end
  end
  if found == 1 then call('SET', P .. 'server', server) end
  return found
end
