{{- define "edgeembed.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Labels that select; they never change. */}}
{{- define "edgeembed.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "edgeembed.labels" -}}
{{ include "edgeembed.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* The headless Service, by which each box has a name of its own. */}}
{{- define "edgeembed.boxes" -}}
{{ include "edgeembed.fullname" . }}-boxes
{{- end -}}

{{- define "edgeembed.balancer" -}}
{{ include "edgeembed.fullname" . }}-balancer
{{- end -}}

{{/* How many boxes there may be. */}}
{{- define "edgeembed.most" -}}
{{- if .Values.autoscaling.enabled -}}{{ .Values.autoscaling.maxReplicas }}{{- else -}}{{ .Values.replicas }}{{- end -}}
{{- end -}}

{{- define "edgeembed.image" -}}
{{- if .Values.gpu.enabled -}}
{{ required "gpu.enabled needs gpu.image: an image with the CUDA module (installers/docker/Dockerfile.cuda)" .Values.gpu.image }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{/* From SIGTERM, or preStop before it, to SIGKILL: the daemon gives up requests after the grace period, then ends its workers. */}}
{{- define "edgeembed.terminationSeconds" -}}
{{ add .Values.drain.delaySeconds .Values.drain.graceSeconds 20 }}
{{- end -}}

{{- define "edgeembed.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "edgeembed.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Placement that boxes and balancer share; call with a list of the context and the component. */}}
{{- define "edgeembed.placement" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- with $root.Values.topologyKeys }}
topologySpreadConstraints:
  {{- range . }}
  - topologyKey: {{ . | quote }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "edgeembed.selector" $root | nindent 8 }}
        app.kubernetes.io/component: {{ $component }}
  {{- end }}
{{- end }}
{{- with $root.Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Mistakes that a schema cannot say well. */}}
{{- define "edgeembed.check" -}}
{{- if and .Values.apiKeys.secret .Values.apiKeys.none -}}
{{- fail "apiKeys.secret and apiKeys.none contradict each other: set one of them" -}}
{{- end -}}
{{- if not (or .Values.apiKeys.secret .Values.apiKeys.none) -}}
{{- fail "set apiKeys.secret to the name of a Secret with a key file, or apiKeys.none to true if you trust everybody who can reach the pods" -}}
{{- end -}}
{{- if and (eq .Values.model.source "claim") (not .Values.model.claim) -}}
{{- fail "model.source claim needs model.claim: the name of a PersistentVolumeClaim with the model" -}}
{{- end -}}
{{- if and (eq .Values.model.source "image") (not .Values.model.image) -}}
{{- fail "model.source image needs model.image: an OCI image with the model" -}}
{{- end -}}
{{- if and (has .Values.model.source (list "claim" "image")) (not (hasPrefix "/models/" .Values.model.name)) -}}
{{- fail (printf "model.source %s needs a model.name below /models/, where the volume is mounted, such as /models/%s.gguf" .Values.model.source .Values.model.name) -}}
{{- end -}}
{{- if and .Values.sharedCache.url .Values.sharedCache.secret -}}
{{- fail "sharedCache.url and sharedCache.secret contradict each other: set one of them" -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) -}}
{{- fail (printf "autoscaling.minReplicas (%d) is more than autoscaling.maxReplicas (%d)" (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) -}}
{{- end -}}
{{- if and .Values.metrics.serviceMonitor.enabled .Values.apiKeys.secret (not .Values.metrics.serviceMonitor.secret) -}}
{{- fail "metrics.serviceMonitor needs metrics.serviceMonitor.secret: a Secret with one of the API keys, which GET /metrics asks for" -}}
{{- end -}}
{{- $set := list "EDGEEMBED_HOST" "EDGEEMBED_PORT" "EDGEEMBED_HOME" "EDGEEMBED_MODEL" "EDGEEMBED_GRACE_PERIOD" "EDGEEMBED_LOG_FORMAT" "EDGEEMBED_ALLOWED_HOSTS" "EDGEEMBED_THREADS" "EDGEEMBED_API_KEY_FILE" "EDGEEMBED_NO_AUTH" -}}
{{- if ne .Values.model.source "start" -}}{{- $set = append $set "EDGEEMBED_OFFLINE" -}}
{{- end -}}
{{- if and .Values.hubToken.secret (has .Values.model.source (list "start" "init")) -}}{{- $set = append $set "HF_TOKEN" -}}{{- end -}}
{{- if or .Values.sharedCache.url .Values.sharedCache.secret -}}{{- $set = append $set "EDGEEMBED_CACHE_URL" -}}{{- end -}}
{{- if .Values.sharedCache.secret -}}{{- $set = append $set "EDGEEMBED_CACHE_SECRET" -}}{{- end -}}
{{- range .Values.env -}}
{{- if has .name $set -}}
{{- fail (printf "env may not have %s, which other values set" .name) -}}
{{- end -}}
{{- end -}}
{{- $labels := append (keys (include "edgeembed.labels" . | fromYaml)) "app.kubernetes.io/component" -}}
{{- $own := dict "podLabels" $labels "podAnnotations" (list "checksum/config") "metrics.serviceMonitor.labels" $labels -}}
{{- $given := dict "podLabels" .Values.podLabels "podAnnotations" .Values.podAnnotations "metrics.serviceMonitor.labels" .Values.metrics.serviceMonitor.labels -}}
{{- range $where, $names := $own -}}
{{- range $name, $_ := get $given $where -}}
{{- if has $name $names -}}
{{- fail (printf "%s may not have %s, which the chart sets" $where $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $fullname := include "edgeembed.fullname" . -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $fullname) -}}
{{- fail (printf "a Service cannot be called %s: set fullnameOverride to a name of lower-case letters, digits and hyphens that begins with a letter" $fullname) -}}
{{- end -}}
{{- end -}}

{{- define "edgeembed.token" -}}
{{- if .Values.hubToken.secret -}}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ .Values.hubToken.secret | quote }}
      key: {{ .Values.hubToken.key | quote }}
{{- end -}}
{{- end -}}
