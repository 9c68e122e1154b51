-- Health of an MqttBroker for Argo CD: resource.customizations.health.tidegate.io_MqttBroker in
-- ConfigMap argocd-cm. The conditions are explained in docs/kubernetes.md.

local function condition(name)
  if obj.status ~= nil and obj.status.conditions ~= nil then
    for _, found in ipairs(obj.status.conditions) do
      if found.type == name then
        return found
      end
    end
  end
  return { status = "Unknown", message = "No operator has seen this resource yet." }
end

local function health(status, found)
  return { status = status, message = found.message or "" }
end

if obj.spec ~= nil and obj.spec.paused then
  return { status = "Suspended", message = "spec.paused is true." }
end
if obj.status == nil or obj.status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "The newest spec has not been observed yet." }
end
local ready, stalled, degraded = condition("Ready"), condition("Stalled"), condition("Degraded")
if stalled.status == "True" then
  return health("Degraded", stalled)
end
local reconciling = condition("Reconciling")
if reconciling.status ~= "False" then
  return health("Progressing", reconciling)
end
if degraded.status == "True" then
  return health("Degraded", degraded)
end
if ready.status == "True" then
  return health("Healthy", ready)
end
if ready.reason == "ScaledToZero" then
  return health("Suspended", ready)
end
return health("Progressing", ready)
