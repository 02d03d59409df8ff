{{- define "beeline.name" -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- end }}

{{- define "beeline.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "beeline.name" .) -}}
{{- end }}

{{- define "beeline.labels" -}}
app.kubernetes.io/name: beeline
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "beeline.selector" -}}
app.kubernetes.io/name: beeline
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "beeline.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "beeline.config" -}}
{{- if .Values.config -}}
{{ toYaml (merge (dict "apiVersion" "beeline.dev/v1alpha1" "kind" "AgentConfiguration") .Values.config) }}
{{- end -}}
{{- end }}
